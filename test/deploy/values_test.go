package deploy

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
)

func TestBadValuesAreRefusedByName(t *testing.T) {
	for _, test := range []struct{ values, word string }{
		{"imagee: {}", "imagee"},
		{"image: {repository: 'Not A Name'}", "repository"},
		{"image: {repository: x, pullPolicy: Sometimes}", "pullPolicy"},
		{"kubeletDir: var/lib/kubelet", "kubeletDir"},
		{"kubeletDir: /var/lib/kubelet/", "kubeletDir"},
		{"driver: {poolDir: pool}", "poolDir"},
		{"driver: {overcommit: 0.5}", "overcommit"},
		{"driver: {overcommit: 101}", "overcommit"},
		{"driver: {maxVolumes: 0}", "maxVolumes"},
		{"driver: {freezeLimit: soon}", "freezeLimit"},
		{"driver: {logLevel: loud}", "logLevel"},
		{"driver: {httpPort: 70000}", "httpPort"},
		{"driver: {extraArgs: [one]}", "extraArgs"},
		{"resizer: {replicas: 0}", "replicas"},
		{"resizer: {podDisruptionBudget: {maxUnavailable: half}}", "maxUnavailable"},
		{"storageClasses: [{}]", "name"},
		{"storageClasses: [{name: a, parameters: {fstype: ext4}}]", "fstype"},
		{"storageClasses: [{name: a, parameters: {csi.storage.k8s.io/fstype: ntfs}}]", "fstype"},
		{"storageClasses: [{name: a, parameters: {katadirect.io/mode: maybe}}]", "mode"},
		{"storageClasses: [{name: a, reclaimPolicy: Recycle}]", "reclaimPolicy"},
		{"runtimeClass: {handler: Kata_1}", "handler"},
		{"runtimeClass: {overhead: {memory: much}}", "memory"},
		{"snapshotter: {enabled: 1}", "enabled"},
		{"volumeSnapshotClass: {deletionPolicy: Keep}", "deletionPolicy"},
		{"podMonitor: {interval: often}", "interval"},
	} {
		_, err := helmTemplate(t, test.values)
		if err == nil || !strings.Contains(err.Error(), "don't meet the specifications of the schema") || !strings.Contains(err.Error(), test.word) {
			t.Errorf("%s: %v", test.values, err)
		}
	}
}

func TestValuesReachTheDriver(t *testing.T) {
	all := helm(t, `
image: {repository: example.org/kd, tag: v9, pullPolicy: Always}
imagePullSecrets: [one]
kubeletDir: /kubelet
driver:
  poolDir: /srv/pool
  overcommit: 2.5
  maxVolumes: 7
  freezeLimit: 10s
  machineHandlers: [kata, "vm-*"]
  defaultHandler: crun
  logLevel: debug
  logFormat: text
  httpPort: 1234
  extraArgs: [--metrics-volumes=5]
  extraEnv: [{name: A, value: b}]
node: {nodeSelector: {disk: fast}, tolerations: [], podLabels: {a: b}, podAnnotations: {c: d}}
`)
	set := get[*appsv1.DaemonSet](t, all, "DaemonSet/katadirect-node")
	spec := set.Spec.Template.Spec
	driver := spec.Containers[0]
	want := []string{
		"--endpoint=unix:///kubelet/plugins/csi.katadirect.io/csi.sock", "--node-id=$(NODE_NAME)", "--pool=/srv/pool", "--kubernetes=in-cluster",
		"--plugin-registration-path=/kubelet/plugins_registry", "--http-endpoint=:1234", "--log-format=text", "--log-level=debug", "--overcommit=2.5",
		"--max-volumes=7", "--freeze-limit=10s", "--machine-handlers=kata,vm-*", "--default-handler=crun", "--metrics-volumes=5",
	}
	if !slices.Equal(driver.Args, want) {
		t.Errorf("the driver's arguments are\n%q, want\n%q", driver.Args, want)
	}
	if driver.Image != "example.org/kd:v9" || driver.ImagePullPolicy != corev1.PullAlways || spec.ImagePullSecrets[0].Name != "one" ||
		driver.Ports[0].ContainerPort != 1234 || !slices.Contains(driver.Env, corev1.EnvVar{Name: "A", Value: "b"}) {
		t.Errorf("image, port or environment are not as asked for: %+v", driver)
	}
	if spec.NodeSelector["disk"] != "fast" || len(spec.Tolerations) != 0 || set.Spec.Template.Labels["a"] != "b" || set.Spec.Template.Annotations["c"] != "d" {
		t.Errorf("the pod is not as asked for: %+v", set.Spec.Template)
	}
	for _, v := range spec.Volumes {
		if v.HostPath != nil && strings.HasPrefix(v.HostPath.Path, "/var/lib/k") {
			t.Errorf("volume %s still is %s", v.Name, v.HostPath.Path)
		}
	}
}

func TestWhatIsTurnedOffIsNotThere(t *testing.T) {
	all := helm(t, `
csiDriver: {inlineVolumes: false}
runtimeClass: {create: false}
resizer: {replicas: 1, podDisruptionBudget: {enabled: false}}
storageClasses: [{name: only, default: true, allowVolumeExpansion: false, mountOptions: [noatime], reclaimPolicy: Retain, volumeBindingMode: Immediate}]
volumeSnapshotClass: {create: false}
`)
	for _, key := range []string{"RuntimeClass/kata", "PodDisruptionBudget/katadirect-controller", "StorageClass/katadirect", "VolumeSnapshotClass/katadirect", "Namespace/katadirect"} {
		if all[key] != nil {
			t.Errorf("%s is there", key)
		}
	}
	if modes := get[*storagev1.CSIDriver](t, all, "CSIDriver/csi.katadirect.io").Spec.VolumeLifecycleModes; len(modes) != 1 {
		t.Errorf("life cycles: %v", modes)
	}
	class := get[*storagev1.StorageClass](t, all, "StorageClass/only")
	if class.Annotations["storageclass.kubernetes.io/is-default-class"] != "true" || *class.AllowVolumeExpansion || *class.ReclaimPolicy != corev1.PersistentVolumeReclaimRetain ||
		*class.VolumeBindingMode != storagev1.VolumeBindingImmediate || !slices.Equal(class.MountOptions, []string{"noatime"}) {
		t.Errorf("the class is %+v", class)
	}
	runtime := get[*nodev1.RuntimeClass](t, helm(t, "runtimeClass: {overhead: null, nodeSelector: null, name: vm, handler: other}"), "RuntimeClass/vm")
	if runtime.Overhead != nil || runtime.Scheduling != nil || runtime.Handler != "other" {
		t.Errorf("the RuntimeClass is %+v", runtime)
	}
}

// Each value has a place in the schema, and a comment of its own or of its group.
func TestEveryValueIsInTheSchemaAndDescribed(t *testing.T) {
	text, err := os.ReadFile(chart + "/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := yaml.UnmarshalStrict(text, &values); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(chart + "/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema node
	if err := json.Unmarshal(raw, &schema); err != nil {
		t.Fatal(err)
	}
	for name := range values {
		if schema.Properties[name] == nil {
			t.Errorf("%s is not in the schema", name)
		}
	}
	for name, child := range schema.Properties {
		value, found := values[name]
		if !found && name != "global" {
			t.Errorf("%s is in the schema and not in values.yaml", name)
		}
		group, isGroup := value.(map[string]any)
		for below := range child.Properties {
			if _, found := group[below]; isGroup && !found {
				t.Errorf("%s.%s is in the schema and not in values.yaml", name, below)
			}
		}
	}
}

type node struct {
	Properties map[string]*node `json:"properties"`
}
