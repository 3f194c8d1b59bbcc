package deploy

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
)

// Helm's own labels, and the order of what has none, are the only differences.
func same(t *testing.T, want, got objects) {
	t.Helper()
	for _, all := range []objects{want, got} {
		for _, object := range all {
			if named, err := meta.Accessor(object); err == nil {
				withoutHelmsLabels(named)
			}
		}
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got))); diff != "" {
		t.Errorf("other objects (-kustomize +helm):\n%s", diff)
	}
	for key, object := range want {
		if got[key] == nil {
			continue
		}
		if diff := cmp.Diff(object, got[key]); diff != "" {
			t.Errorf("%s differs (-kustomize +helm):\n%s", key, diff)
		}
	}
}

// valuesOf are the chart's values that give the same as each overlay. "" is the base.
var valuesOf = map[string]string{
	"":                        "",
	"kubelet-sidecars":        "registrar: {enabled: true}\nlivenessprobe: {enabled: true}",
	"volume-attributes-class": "volumeAttributesClass: {enabled: true}",
	"without-snapshots":       "snapshotter: {enabled: false}",
	"monitoring":              "podMonitor: {enabled: true}",
	"openshift":               "openshift: {enabled: true}\ncsiDriver: {seLinuxMount: true}",
	"installer":               "installer: {enabled: true}",
	"uninstaller":             "installer: {enabled: true, uninstall: true}",
	"k0s":                     "kubeletDir: /var/lib/k0s/kubelet",
	"microk8s":                "kubeletDir: /var/snap/microk8s/common/var/lib/kubelet",
}

func TestHelmAndKustomizeGiveTheSameObjects(t *testing.T) {
	for overlay, values := range valuesOf {
		t.Run("overlay "+overlay, func(t *testing.T) {
			dir := base
			if overlay != "" {
				dir = overlays + "/" + overlay
			}
			same(t, kustomize(t, dir), helm(t, values+"\nnamespace: {create: true}"))
		})
	}
}

func TestWithoutSnapshotsNothingSpeaksOfThem(t *testing.T) {
	for how, all := range map[string]objects{
		"kustomize": kustomize(t, overlays+"/without-snapshots"),
		"helm":      helm(t, "snapshotter: {enabled: false}"),
	} {
		for key := range all {
			if key == "VolumeSnapshotClass/katadirect" || key == "ClusterRole/katadirect-snapshotter" || key == "ClusterRoleBinding/katadirect-snapshotter" {
				t.Errorf("%s: %s is there", how, key)
			}
		}
		for key, rules := range rolesOf(all) {
			for _, right := range rulesOf(rules) {
				if strings.Contains(right, ".snapshot.storage.k8s.io ") {
					t.Errorf("%s: %s allows %s", how, key, right)
				}
			}
		}
		for key, spec := range podSpecs(all) {
			for _, c := range spec.Containers {
				if c.Name == "csi-snapshotter" {
					t.Errorf("%s: %s has a snapshotter", how, key)
				}
			}
		}
	}
}
