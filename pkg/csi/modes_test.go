package csi

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/internal/filesystem"
	"github.com/katadirect/katadirect/pkg/csi/kube"
	"github.com/katadirect/katadirect/pkg/csi/mode"
)

func TestAutoGivesEachPodWhatItsRuntimeTakes(t *testing.T) {
	for _, fsType := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fsType, func(t *testing.T) {
			h, _ := newModesHost(t)
			v := h.createIn("data", inMode("auto"), withFS(fsType))
			must(t, v.stage())
			h.nothingLeft() // the pod is not known yet

			plain := h.target("plain")
			must(t, v.publishFor("plain", plain))
			mounted, err := filesystem.MountAt(plain)
			if err != nil || mounted.FSType != fsType || v.isRecordedAt(plain) {
				t.Fatalf("an ordinary pod has %+v, %v, recorded %t", mounted, err, v.isRecordedAt(plain))
			}
			must(t, os.WriteFile(filepath.Join(plain, "file"), []byte("text"), 0o600))
			must(t, v.unpublish(plain))
			h.nothingLeft()
			if _, err := os.Stat(plain); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the target path is left: %v", err)
			}
			must(t, v.publishFor("plain", plain))
			if data := readFile(t, filepath.Join(plain, "file"), 4); data != "text" {
				t.Errorf("the next pod reads %q", data)
			}
			must(t, v.unpublish(plain))

			machine := h.target("machine")
			must(t, v.publishFor("machine", machine))
			if isMounted(machine) || !v.isRecordedAt(machine) {
				t.Error("the pod in a machine has a mount, or no record")
			}
			must(t, v.unpublish(machine))
			h.nothingLeft()
			must(t, v.unstage())
			must(t, v.delete())
		})
	}
}

func TestTheClaimsWordComesBeforeItsClass(t *testing.T) {
	h, cluster := newModesHost(t)
	v := h.createIn("data", inMode("direct"))
	must(t, v.stage())
	target := h.target("machine")
	cluster.claim = mode.Host
	must(t, v.publishFor("machine", target))
	if !isMounted(target) {
		t.Error("host mode makes no mount")
	}
	must(t, v.unpublish(target))
	cluster.claim = mode.Direct
	cluster.runtimes["kata"] = mode.Runtime{Class: "kata", Handler: "kata", Says: mode.Host}
	refused(t, v.publishFor("machine", target), codes.FailedPrecondition, "kata", "annotation")
	h.nothingLeft()
}

func TestAPodThatIsNoMachineIsRefusedADirectVolume(t *testing.T) {
	h, _ := newModesHost(t)
	for name, parameters := range map[string]map[string]string{"by default": nil, "asked for": inMode("direct")} {
		t.Run(name, func(t *testing.T) {
			v := h.createIn(name, parameters)
			must(t, v.stage())
			target := h.target("plain-" + name)
			refused(t, v.publishFor("plain", target), codes.FailedPrecondition, v.id, "space/plain", "virtual machine", "RuntimeClass", mode.Key)
			h.nothingLeft()
			if _, err := os.Stat(target); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the target path is left: %v", err)
			}
			must(t, v.unpublish(target)) // kubelet does that
			must(t, v.unstage())
		})
	}
}

// A raw device is the same for both, so the mode says nothing about it and nobody is asked.
func TestModesAreNotForRawBlockVolumes(t *testing.T) {
	h, cluster := newModesHost(t)
	cluster.err = kube.ErrUnavailable
	raw := h.createIn("raw", inMode("direct"), asBlock)
	must(t, raw.stage())
	must(t, raw.publishFor("plain", h.target("raw")))
	must(t, raw.unpublish(h.target("raw")))
	must(t, raw.unstage())
}

// A look-up that fails must never let a pod have the volume in some way or other.
func TestAFailedLookUpFailsTheCall(t *testing.T) {
	h, cluster := newModesHost(t)
	for _, class := range []string{"direct", "auto", "host"} {
		v := h.createIn("data-"+class, inMode(class))
		must(t, v.stage())
		target := h.target(class)
		cluster.err = fmt.Errorf("%w: connection refused", kube.ErrUnavailable)
		refused(t, v.publishFor("machine", target), codes.Unavailable, v.id, "connection refused")
		cluster.err = fmt.Errorf("%w: no such object", kube.ErrNotFound)
		refused(t, v.publishFor("machine", target), codes.FailedPrecondition, v.id, "no such object")
		cluster.err = nil
		if class != "host" {
			refused(t, v.publishFor("stranger", target), codes.FailedPrecondition, "space/stranger")
			refused(t, v.publish(target), codes.FailedPrecondition, "podInfoOnMount")
		}
		h.nothingLeft()
		must(t, v.unstage())
	}
}

// kubelet publishes again after its own restart, and a pod that runs must not depend on the API server.
func TestPublishingAgainAsksNobody(t *testing.T) {
	h, cluster := newModesHost(t)
	v, w := h.createIn("one", inMode("auto")), h.createIn("two", inMode("auto"))
	must(t, v.stage())
	must(t, w.stage())
	must(t, v.publishFor("plain", h.target("one")))
	must(t, w.publishFor("machine", h.target("two")))
	h.restart()
	cluster.err, cluster.claim = kube.ErrUnavailable, mode.Host
	must(t, v.stage())
	must(t, v.publishFor("plain", h.target("one")))
	must(t, w.publishFor("machine", h.target("two")))
	if points := len(h.mountsBelow(h.dir)); points != 2 {
		t.Errorf("%d mounts, want the one that is staged and the pod's", points)
	}
	if isMounted(h.target("two")) {
		t.Error("the machine's volume is mounted on the host")
	}
}

func TestWithoutKubernetesOnlyWhatNeedsNoLookUpWorks(t *testing.T) {
	h, _ := newModesHost(t)
	auto := h.createIn("auto", inMode("auto"))
	h.cluster = nil
	h.restart()
	_, err := h.CreateVolume(t.Context(), &csi.CreateVolumeRequest{
		Name: "more", Parameters: inMode("auto"), VolumeCapabilities: []*csi.VolumeCapability{capability()},
	})
	refused(t, err, codes.InvalidArgument, "auto", "--kubernetes")
	must(t, auto.stage())
	refused(t, auto.publish(h.target("auto")), codes.FailedPrecondition, auto.id, "--kubernetes")

	direct, host := h.createIn("direct", inMode("direct")), h.createIn("host", inMode("host"))
	for _, v := range []volume{direct, host} {
		must(t, v.stage())
		must(t, v.publish(h.target(v.id)))
		if got := isMounted(h.target(v.id)); got != (v.id == host.id) {
			t.Errorf("%s is mounted: %t", v.id, got)
		}
	}
}

func TestADriverThatCannotTellMachinesSaysSoAtItsStart(t *testing.T) {
	for name, cluster := range map[string]lookups{"without Kubernetes": nil, "with it": newFakeCluster()} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, func(h *host) { h.cluster = cluster })
			h.stop()
			want := 0
			if cluster == nil {
				want = 1
			}
			if got := strings.Count(h.log.String(), "--kubernetes=off"); got != want {
				t.Errorf("said %d times, want %d:\n%s", got, want, h.log)
			}
		})
	}
}

func TestSELinuxLabels(t *testing.T) {
	const label = "system_u:object_r:container_file_t:s0:c15,c25"
	for flag, want := range map[string]string{
		`context="` + label + `"`: label, "context=" + label: label, "context=u:r:t": "u:r:t",
		"context=": "!", `context="a"`: "!", `context="u:r:t",suid`: "!", "context=u:r:t s": "!", "fscontext=u:r:t": "",
	} {
		got, others, err := takeSELinuxLabel([]string{"noatime", flag})
		switch {
		case want == "!":
			if !errors.Is(err, ErrInvalidArgument) {
				t.Errorf("%s: got %q, %v", flag, got, err)
			}
		case err != nil || got != want || want != "" && len(others) != 1:
			t.Errorf("%s: got %q, %v, %v", flag, got, others, err)
		}
	}
	h, _ := newModesHost(t)
	v := h.createIn("data", inMode("host"), withFlags(`context="`+label+`"`))
	must(t, v.stage())
	must(t, v.publishFor("plain", h.target("plain")))
	other := v
	other.cap = capability(withFlags(`context="` + label + `5"`))
	refused(t, other.stage(), codes.AlreadyExists, "SELinux")
}
