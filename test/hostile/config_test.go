package hostile

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/test/artifacts"
)

// What is wrong with the configuration stands in the error that reaches the pod's events, with the file and the key.
// Nothing is left of such a pod.
func TestAConfigurationThatMakesNoSenseIsNamed(t *testing.T) {
	cases := []struct {
		name, config string
		// make puts something else in the file's place.
		make func(path string) error
		// says is what the error has in it, "%s" being the file.
		says []string
	}{
		{name: "type", config: "[hypervisor.qemu]\ndefault_memory = \"much\"", says: []string{"%s, line 4"}},
		{name: "syntax", config: "[hypervisor.qemu", says: []string{"%s, line 1"}},
		{name: "amount", config: "[hypervisor.qemu]\ndefault_memory = 1", says: []string{"%s", "default_memory = 1"}},
		{name: "hypervisor", config: "[hypervisor.clh]\npath = \"/bin/clh\"", says: []string{"%s", "[hypervisor.qemu]"}},
		{name: "kernel", config: "[hypervisor.qemu]\nno_such_key = 1\nkernel = \"/no/such/vmlinux\"\ninitrd = \"/no/such/initrd\"",
			says: []string{"/no/such/", "katadirect guest build"}},
		{name: "qemu", config: "[hypervisor.qemu]\npath = \"/no/such/qemu\"", says: []string{"/no/such/qemu"}},
		{name: "virtiofsd", config: "[hypervisor.qemu]\nvirtio_fs_daemon = \"/no/such/virtiofsd\"", says: []string{"virtio_fs_daemon", "/no/such/virtiofsd"}},
		{name: "accel", config: "[hypervisor.qemu]\n[katadirect]\naccel = \"magic\"", says: []string{"%s", "accel", "magic"}},
		{name: "missing", config: "x", make: os.Remove, says: []string{"%s", "no such file"}},
		{name: "folder", config: "x", make: func(path string) error { _ = os.Remove(path); return os.Mkdir(path, 0o755) }, says: []string{"%s", "not a regular file"}},
		{name: "fifo", config: "x", make: func(path string) error { _ = os.Remove(path); return unix.Mkfifo(path, 0o644) }, says: []string{"%s", "not a regular file"}},
		{name: "huge", config: "x", make: func(path string) error { return os.Truncate(path, 1<<40) }, says: []string{"%s", "not a regular file"}},
	}
	guest := fmt.Sprintf("kernel = %q\ninitrd = %q\n", artifacts.Image.Kernel, artifacts.Image.Initrd)
	var handlers []lab.Handler
	for _, tc := range cases {
		// What is not said is as it should be, so that only one thing is wrong.
		config := strings.Replace(tc.config, "[hypervisor.qemu]\n", fmt.Sprintf("[hypervisor.qemu]\n%s", guest), 1)
		if strings.Contains(tc.config, "kernel =") {
			config = tc.config
		}
		handlers = append(handlers, lab.Handler{Name: tc.name, RuntimeType: "io.containerd.katadirect.v2", Config: config})
	}
	l, err := lab.Open(t.Context(), lab.Options{BinDir: artifacts.BinDir, Handlers: handlers})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		left, err := l.Close(context.WithoutCancel(t.Context()))
		if err != nil || len(left) > 0 {
			t.Errorf("%v, left over:\n%s", err, strings.Join(left, "\n"))
		}
	}()
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			file := filepath.Join(l.Dir, tc.name+".toml")
			if tc.make != nil {
				if err := tc.make(file); err != nil {
					t.Fatal(err)
				}
			}
			began := time.Now()
			pod, err := l.RunPod(t.Context(), lab.PodSpec{Name: tc.name, Handler: tc.name})
			if err == nil {
				remove(t, pod)
				t.Fatal("the pod runs")
			}
			if took := time.Since(began); took > noticeLimit {
				t.Errorf("it took %s", took)
			}
			checkText(t, err.Error())
			for _, words := range tc.says {
				if want := strings.ReplaceAll(words, "%s", file); !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q: %v", want, err)
				}
			}
		})
	}
}
