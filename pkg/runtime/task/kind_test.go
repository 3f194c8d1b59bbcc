package task

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestClassifyTellsWhatAContainerIsByItsAnnotations(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name        string
		annotations map[string]string
		kind        Kind
		sandbox     string
		fails       bool
	}{
		{name: "ctr run", kind: Single, sandbox: "me"},
		{name: "annotations of somebody else", annotations: map[string]string{"a": "b"}, kind: Single, sandbox: "me"},
		{
			name:        "containerd's sandbox",
			annotations: map[string]string{"io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-id": "me"},
			kind:        PodSandbox, sandbox: "me",
		},
		{
			name:        "containerd's container",
			annotations: map[string]string{"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "pod"},
			kind:        PodContainer, sandbox: "pod",
		},
		{
			name:        "CRI-O's sandbox",
			annotations: map[string]string{"io.kubernetes.cri-o.ContainerType": "sandbox", "io.kubernetes.cri-o.SandboxID": "me"},
			kind:        PodSandbox, sandbox: "me",
		},
		{
			name:        "CRI-O's container",
			annotations: map[string]string{"io.kubernetes.cri-o.ContainerType": "container", "io.kubernetes.cri-o.SandboxID": "pod"},
			kind:        PodContainer, sandbox: "pod",
		},
		{
			name:        "dockershim's sandbox",
			annotations: map[string]string{"io.kubernetes.docker.type": "podsandbox"},
			kind:        PodSandbox, sandbox: "me",
		},
		{
			name:        "dockershim's container",
			annotations: map[string]string{"io.kubernetes.docker.type": "container", "io.kubernetes.sandbox.id": "pod"},
			kind:        PodContainer, sandbox: "pod",
		},
		{
			name:        "a container of no pod",
			annotations: map[string]string{"io.kubernetes.cri.container-type": "container"},
			fails:       true,
		},
		{
			name:        "a kind nobody knows",
			annotations: map[string]string{"io.kubernetes.cri.container-type": "teapot"},
			fails:       true,
		},
	} {
		kind, sandbox, err := Classify("me", c.annotations)
		if c.fails {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("%s: got %v, want ErrInvalid", c.name, err)
			}
			continue
		}
		if err != nil || kind != c.kind || sandbox != c.sandbox {
			t.Errorf("%s: got %v of %q, %v; want %v of %q", c.name, kind, sandbox, err, c.kind, c.sandbox)
		}
	}
}

func TestABundleThatMakesNoSenseIsRefusedBeforeAnythingIsDone(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"no file":     "",
		"torn":        `{"process": {"args": ["tr`,
		"no process":  `{"root": {"path": "rootfs"}}`,
		"no root":     `{"process": {"args": ["true"]}}`,
		"wrong types": `{"process": "true", "root": {}}`,
		"no end":      `{"annotations": {"a": "` + strings.Repeat("a", maxSpec) + `"}}`,
	} {
		bundle := t.TempDir()
		if content != "" {
			if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := ReadSpec(bundle); err == nil || !strings.Contains(err.Error(), bundle) {
			t.Errorf("%s: got %v, want an error that names the file", name, err)
		}
	}
}
