package deploy

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/katadirect/katadirect/internal/cluster"
	"github.com/katadirect/katadirect/internal/lab"
)

const (
	base       = "../../deploy/kustomize/base"
	components = "../../deploy/kustomize/components"
	overlays   = "../../deploy/kustomize/overlays"
	chart      = "../../deploy/helm/katadirect"
	examples   = "../../deploy/examples"
	namespace  = "katadirect"
)

// program is one that the Makefile has built into the cache.
func program(t *testing.T, pattern, target string) string {
	t.Helper()
	found, _ := filepath.Glob(filepath.Join(lab.DefaultCache(), pattern))
	if len(found) == 0 {
		t.Fatalf("%s is not in the cache: run %q first", filepath.Base(pattern), "make "+target)
	}
	return found[len(found)-1]
}

func output(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", errors.Join(err, errors.New(stderr.String()))
	}
	return stdout.String(), nil
}

func tryKustomize(t *testing.T, dir string) (string, error) {
	t.Helper()
	programs, err := cluster.Programs(lab.DefaultCache())
	if err != nil {
		t.Fatal(err)
	}
	return output(exec.CommandContext(t.Context(), filepath.Join(programs, "kubectl"), "kustomize", dir))
}

// kustomize renders a folder.
func kustomize(t *testing.T, dir string) objects {
	t.Helper()
	text, err := tryKustomize(t, dir)
	if err != nil {
		t.Fatalf("%s: %v", dir, err)
	}
	return decode(t, text)
}

// helmTemplate renders the chart with values, given as a file's text.
func helmTemplate(t *testing.T, values string) (string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte(values), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program(t, "helm/v*/helm", "helm"),
		"template", "release", chart, "--namespace", namespace, "--values", file, "--kube-version", "v1.34.0")
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+t.TempDir(), "HELM_CONFIG_HOME="+t.TempDir(), "HELM_DATA_HOME="+t.TempDir())
	return output(cmd)
}

func helm(t *testing.T, values string) objects {
	t.Helper()
	text, err := helmTemplate(t, values)
	if err != nil {
		t.Fatalf("helm template with\n%s\n%v", values, err)
	}
	return decode(t, text)
}

// renderings are the base, each overlay, and the chart with each overlay's values and with none.
func renderings(t *testing.T) map[string]objects {
	t.Helper()
	found, err := os.ReadDir(overlays)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]objects{"base": kustomize(t, base)}
	for _, overlay := range found {
		all["overlay "+overlay.Name()] = kustomize(t, overlays+"/"+overlay.Name())
	}
	for overlay, values := range valuesOf {
		all["the values of "+overlay] = helm(t, values)
	}
	return all
}

// objects by kind and name.
type objects map[string]runtime.Object

// strict decodes no field that a type does not have, and none twice.
var strict = json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme.Scheme, scheme.Scheme,
	json.SerializerOptions{Yaml: true, Strict: true})

// decode reads documents. What is not of Kubernetes' own groups is read as it stands.
func decode(t *testing.T, text string) objects {
	t.Helper()
	all := objects{}
	for reader := yaml.NewYAMLReader(newReader(text)); ; {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if onlyComments(document) {
			continue
		}
		object, err := decodeOne(document)
		if err != nil {
			t.Errorf("%v in\n%s", err, document)
			continue
		}
		key := keyOf(object)
		if all[key] != nil {
			t.Errorf("%s is there twice", key)
		}
		all[key] = object
	}
}

func onlyComments(document []byte) bool {
	for line := range strings.Lines(string(document)) {
		if line = strings.TrimSpace(line); line != "" && line != "---" && !strings.HasPrefix(line, "#") {
			return false
		}
	}
	return true
}

func decodeOne(document []byte) (runtime.Object, error) {
	object, _, err := strict.Decode(document, nil, nil)
	if !runtime.IsNotRegisteredError(err) {
		return object, err
	}
	other := &unstructured.Unstructured{}
	err = yaml.UnmarshalStrict(document, &other.Object)
	if err == nil && !strings.HasPrefix(other.GetAPIVersion(), "snapshot.storage.k8s.io/") && !strings.HasPrefix(other.GetAPIVersion(), "monitoring.coreos.com/") {
		err = errors.New("nobody knows this kind: " + other.GroupVersionKind().String())
	}
	return other, err
}

func keyOf(object runtime.Object) string {
	named, err := meta.Accessor(object)
	if err != nil {
		panic(err)
	}
	return object.GetObjectKind().GroupVersionKind().Kind + "/" + named.GetName()
}

// get returns the object of that kind and name as what it is.
func get[T runtime.Object](t *testing.T, all objects, key string) T {
	t.Helper()
	found, isOne := all[key].(T)
	if !isOne {
		t.Fatalf("%s is missing or something else: %T", key, all[key])
	}
	return found
}

// of are all objects of a type.
func of[T runtime.Object](all objects) map[string]T {
	found := map[string]T{}
	for key, object := range all {
		if one, isOne := object.(T); isOne {
			found[key] = one
		}
	}
	return found
}

// podSpecs are those of all workloads.
func podSpecs(all objects) map[string]corev1.PodSpec {
	found := map[string]corev1.PodSpec{}
	for key, object := range all {
		if spec, isWorkload := podSpecOf(object); isWorkload {
			found[key] = spec
		}
	}
	return found
}

func withoutHelmsLabels(m metav1.Object) {
	labels := m.GetLabels()
	for _, name := range []string{"app.kubernetes.io/managed-by", "app.kubernetes.io/instance", "helm.sh/chart"} {
		delete(labels, name)
	}
	m.SetLabels(labels)
}
