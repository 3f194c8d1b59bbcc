package deploy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/katadirect/katadirect/internal/driverimage"
	"github.com/katadirect/katadirect/internal/postgresimage"
)

// Everything that an example names is in deploy/, or in an example.
func TestExamplesNameWhatIsThere(t *testing.T) {
	files, err := filepath.Glob(examples + "/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	index, err := os.ReadFile(examples + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	installed := kustomize(t, base)
	classes, all := of[*storagev1.StorageClass](installed), map[string]objects{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all[file] = decode(t, string(text))
		for key, class := range of[*storagev1.StorageClass](all[file]) {
			classes[key] = class
		}
		if !strings.Contains(string(index), "("+filepath.Base(file)+")") {
			t.Errorf("README.md does not name %s", filepath.Base(file))
		}
	}
	runtimes := of[*nodev1.RuntimeClass](installed)
	for file, objects := range all {
		for key, spec := range podSpecs(objects) {
			if name := spec.RuntimeClassName; name != nil && runtimes["RuntimeClass/"+*name] == nil {
				t.Errorf("%s: %s wants RuntimeClass %s", file, key, *name)
			}
			for _, c := range spec.Containers {
				if c.Image != "busybox:1" && c.Image != postgresimage.Name {
					t.Errorf("%s: %s wants image %s, which nobody makes", file, key, c.Image)
				}
			}
		}
		for key, claim := range claimsOf(objects) {
			class := classes["StorageClass/"+*claim.StorageClassName]
			if class == nil {
				t.Errorf("%s: %s wants StorageClass %s", file, key, *claim.StorageClassName)
			} else if class.AllowVolumeExpansion == nil || !*class.AllowVolumeExpansion {
				t.Errorf("%s: what %s is given cannot grow", file, key)
			}
		}
	}
}

// claimsOf are claims, and those that StatefulSets and pods make.
func claimsOf(all objects) map[string]corev1.PersistentVolumeClaimSpec {
	claims := map[string]corev1.PersistentVolumeClaimSpec{}
	for key, claim := range of[*corev1.PersistentVolumeClaim](all) {
		claims[key] = claim.Spec
	}
	for key, set := range of[*appsv1.StatefulSet](all) {
		for _, template := range set.Spec.VolumeClaimTemplates {
			claims[key+" "+template.Name] = template.Spec
		}
	}
	for key, spec := range podSpecs(all) {
		for _, v := range spec.Volumes {
			if v.Ephemeral != nil {
				claims[key+" "+v.Name] = v.Ephemeral.VolumeClaimTemplate.Spec
			}
		}
	}
	return claims
}

func TestTheDriversImageIsTheOneThatIsMade(t *testing.T) {
	want := driverimage.Name + ":" + driverimage.DefaultTag
	for how, all := range map[string]objects{"kustomize": kustomize(t, base), "helm": helm(t, "")} {
		if is := get[*appsv1.DaemonSet](t, all, "DaemonSet/katadirect-node").Spec.Template.Spec.Containers[0].Image; is != want {
			t.Errorf("%s runs %s, and \"make image\" makes %s", how, is, want)
		}
	}
}

// An overlay is a component on the base, so that people can put several together.
func TestEveryComponentHasAnOverlay(t *testing.T) {
	found, err := os.ReadDir(components)
	if err != nil {
		t.Fatal(err)
	}
	for _, component := range found {
		kustomize(t, overlays+"/"+component.Name())
	}
}
