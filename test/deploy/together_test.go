package deploy

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// put is an overlay of one's own: the base with components, in that order.
func put(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	from := func(place string) string {
		whole, err := filepath.Abs(place)
		if err != nil {
			t.Fatal(err)
		}
		path, err := filepath.Rel(dir, whole)
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	text := fmt.Sprintf("apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [%s]\ncomponents:\n", from(base))
	for _, name := range names {
		text += "- " + from(filepath.Join(components, name)) + "\n"
	}
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Patches know an argument by its place: where another is there by then, they change nothing and say so.
func TestComponentsThatWouldBreakOneAnotherAreRefused(t *testing.T) {
	for _, names := range [][]string{
		{"kubelet-sidecars", "k0s"}, {"k0s", "kubelet-sidecars"},
		{"kubelet-sidecars", "microk8s"}, {"microk8s", "kubelet-sidecars"},
		{"k0s", "microk8s"},
		{"kubelet-sidecars", "volume-attributes-class"},
	} {
		if _, err := tryKustomize(t, put(t, names...)); err == nil || !strings.Contains(err.Error(), "test failed") {
			t.Errorf("%v: %v", names, err)
		}
	}
}

func TestComponentsGoTogether(t *testing.T) {
	for _, names := range [][]string{
		{"volume-attributes-class", "kubelet-sidecars", "without-snapshots", "installer", "monitoring", "openshift"},
		{"without-snapshots", "volume-attributes-class", "k0s", "installer"},
		{"volume-attributes-class", "snapshot-controller", "uninstaller", "microk8s"},
	} {
		if _, err := tryKustomize(t, put(t, names...)); err != nil {
			t.Errorf("%v: %v", names, err)
		}
	}
}
