package cri

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/test/artifacts"
)

// What is wrong with the configuration stands in the pod's event: in kubelet's words, the error of RunPodSandbox.
func TestAMistakeInTheConfigurationReachesTheCaller(t *testing.T) {
	for _, flavour := range lab.Flavours {
		t.Run("containerd "+string(flavour), func(t *testing.T) {
			options := artifacts.NodeOptions(flavour)
			options.Config = "memory_slots = -1\n"
			n := artifacts.NodeWith(t, options)
			_, err := n.Lab.RunPod(t.Context(), lab.PodSpec{Name: "pod", Handler: kubelet.Handler})
			if err == nil || !strings.Contains(err.Error(), "kata.toml, line 6: memory_slots = -1 is below 0") {
				t.Errorf("error %v", err)
			}
		})
	}
}

// The traps that people step into: runc's options under our type, and runc's whole section with only the program
// exchanged. The pod runs as if they were not there. containerd 1.6 does not know runtime_path, and sends nothing of
// options that its own runtime does not have; containerd 2 sends both.
func TestOptionsOfRuncsAreLeftAsideWithAWarning(t *testing.T) {
	mistaken := lab.Handler{Name: "mistaken", RuntimeType: "io.containerd.katadirect.v2", Options: "SystemdCgroup = true"}
	copied := lab.Handler{Name: "copied", RuntimeType: "io.containerd.runc.v2", Options: "SystemdCgroup = true",
		RuntimePath: filepath.Join(artifacts.BinDir, "containerd-shim-katadirect-v2")}
	host, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	for flavour, handlers := range map[lab.Flavour][]lab.Handler{lab.Debian: {mistaken}, lab.V2: {mistaken, copied}} {
		t.Run("containerd "+string(flavour), func(t *testing.T) {
			l, err := lab.Open(t.Context(), lab.Options{Containerd: flavour, BinDir: artifacts.BinDir, Handlers: handlers})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if left, err := l.Close(context.WithoutCancel(t.Context())); err != nil || len(left) > 0 {
					t.Errorf("%v, left over: %q", err, left)
				}
			}()
			undo := defaultConfig(t, l)
			defer undo()
			for _, h := range handlers {
				pod, err := l.RunPod(t.Context(), lab.PodSpec{Name: h.Name, Handler: h.Name})
				if err != nil {
					t.Errorf("%s: %v", h.Name, err)
					continue
				}
				if got := exec(t, run(t, pod, "app", idle), "cat /proc/sys/kernel/random/boot_id"); got == string(host) {
					t.Errorf("%s: it runs on the host's kernel", h.Name)
				}
				removePod(t, pod)
			}
			if said := l.Containerd().Said(); flavour == lab.V2 && !strings.Contains(said, "ignoring runtime options") {
				t.Errorf("no warning in\n%s", l.Containerd().LastWords())
			}
		})
	}
}

// defaultConfig puts a configuration where a shim looks that is told of none: in an /etc that only the lab sees.
func defaultConfig(t *testing.T, l *lab.Lab) (undo func()) {
	t.Helper()
	inLab := func(script string) {
		t.Helper()
		_, err := l.Run(context.WithoutCancel(t.Context()), lab.Command{
			Name: "sh", Path: "/bin/sh", Args: []string{"-ec", script}, Env: []string{"OVER=" + filepath.Join(l.Dir, "etc")},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	inLab(fmt.Sprintf(`mkdir $OVER; mount -t tmpfs none $OVER; mkdir -p $OVER/new/kata-containers $OVER/work
printf '[hypervisor.qemu]\nkernel = "%s"\ninitrd = "%s"\ndefault_memory = 256\n' >$OVER/new/kata-containers/configuration.toml
mount -t overlay none -o lowerdir=/etc,upperdir=$OVER/new,workdir=$OVER/work /etc`, artifacts.Image.Kernel, artifacts.Image.Initrd))
	return func() { inLab("umount -l /etc; umount -l $OVER") }
}
