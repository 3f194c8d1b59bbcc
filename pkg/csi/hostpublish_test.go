package csi

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/csi/kube"
	"github.com/katadirect/katadirect/pkg/csi/mode"
)

// TestAKubeletFolderThatIsABindMountIsOnePlace has the kernel repeat every mount below kubelet's folder in another one.
func TestAKubeletFolderThatIsABindMountIsOnePlace(t *testing.T) {
	h, _ := newModesHost(t)
	other := h.path("other")
	must(t, os.MkdirAll(other, 0o750))
	must(t, unix.Mount(h.dir, h.dir, "", unix.MS_BIND, ""))
	t.Cleanup(func() { _ = unix.Unmount(h.dir, unix.MNT_DETACH) })
	must(t, unix.Mount("", h.dir, "", unix.MS_SHARED, ""))
	must(t, unix.Mount(h.dir, other, "", unix.MS_BIND, ""))
	v := h.createIn("data", inMode("host"))
	must(t, v.stage())
	target := h.target("plain")
	must(t, v.publishFor("plain", target))
	if mounts := h.mountsBelow(other); len(mounts) != 2 {
		t.Fatalf("the kernel repeats %v", mounts)
	}
	must(t, v.publishFor("plain", target))
	must(t, v.unpublish(target))
	if mounts := h.mountsBelow(other); len(mounts) != 0 {
		t.Errorf("left are %v", mounts)
	}
	if devices := h.loopDevices(); len(devices) > 0 {
		t.Errorf("loop devices are left: %v", devices)
	}
	must(t, v.unstage())
}

// TestNoVolumeIsInAMachineAndOnTheHost is the second invariant.
func TestNoVolumeIsInAMachineAndOnTheHost(t *testing.T) {
	h, _ := newModesHost(t)
	v := h.createIn("data", inMode("auto"))
	must(t, v.stage())
	plain, machine := h.target("plain"), h.target("machine")
	must(t, v.publishFor("plain", plain))
	refused(t, v.publishFor("machine", machine), codes.FailedPrecondition, "ordinary pod", plain)
	if v.isRecordedAt(machine) {
		t.Fatal("there is a record")
	}
	refused(t, v.unstage(), codes.FailedPrecondition, "ordinary pod")
	refused(t, v.delete(), codes.FailedPrecondition, "staged")
	must(t, v.unpublish(plain))
	must(t, v.publishFor("machine", machine))
	refused(t, v.publishFor("plain", plain), codes.FailedPrecondition, "virtual machine", machine)
	if mounts := h.mountsBelow(h.dir); len(mounts) > 0 {
		t.Fatalf("mounted at %v", mounts)
	}
	// A machine whose record is gone still has the image open and locked.
	must(t, v.unpublish(machine))
	unlock := lockImage(t, v.image())
	refused(t, v.publishFor("plain", plain), codes.FailedPrecondition, "locked")
	unlock()
}

func TestWhatAGuestHasWrittenIsMountedOnTheHostOnlyIfTheClassSaysSo(t *testing.T) {
	h, _ := newModesHost(t)
	allowed := inMode("auto")
	allowed[parameterAllowGuestData] = "true"
	for name, test := range map[string]struct {
		parameters map[string]string
		refused    bool
	}{"by default": {inMode("auto"), true}, "allowed": {allowed, false}} {
		t.Run(name, func(t *testing.T) {
			v := h.createIn(name, test.parameters)
			must(t, v.stage())
			plain, machine := h.target("plain-"+name), h.target("machine-"+name)
			// A machine that came and wrote nothing leaves nothing to be afraid of.
			must(t, v.publishFor("machine", machine))
			must(t, v.unpublish(machine))
			must(t, v.publishFor("plain", plain))
			must(t, v.unpublish(plain))
			// Now it holds a file system, and with the next machine it may be anything.
			must(t, v.publishFor("machine", machine))
			must(t, v.unpublish(machine))
			h.restart()
			err := v.publishFor("plain", plain)
			if test.refused {
				refused(t, err, codes.FailedPrecondition, v.id, parameterAllowGuestData)
				h.nothingLeft()
				return
			}
			must(t, err)
			must(t, v.unpublish(plain))
		})
	}
	r := createRequest("wrong", gib)
	r.Parameters = map[string]string{parameterAllowGuestData: "yes"}
	_, err := h.CreateVolume(t.Context(), r)
	refused(t, err, codes.InvalidArgument, parameterAllowGuestData, "yes")
}

func TestSeveralPodsOfANodeShareAVolumeOnTheHostUnlessItIsForOne(t *testing.T) {
	h, _ := newModesHost(t)
	for mode, one := range map[csi.VolumeCapability_AccessMode_Mode]bool{
		csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER:        false,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER:  false,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER: true,
	} {
		t.Run(mode.String(), func(t *testing.T) {
			v := h.createIn(mode.String(), inMode("host"), withMode(mode))
			must(t, v.stage())
			first, second := h.target("first-"+v.id), h.target("second-"+v.id)
			must(t, v.publishFor("plain", first))
			must(t, v.publishFor("plain", first))
			err := v.publishFor("machine", second)
			if one {
				refused(t, err, codes.FailedPrecondition, "ReadWriteOncePod", first)
			} else {
				must(t, err)
				must(t, os.WriteFile(filepath.Join(first, "file"), []byte("text"), 0o600))
				if got := readFile(t, filepath.Join(second, "file"), 4); got != "text" {
					t.Errorf("the second pod reads %q", got)
				}
				must(t, v.unpublish(second))
			}
			if !isMounted(first) {
				t.Error("the first pod has lost its volume")
			}
			must(t, v.unpublish(first))
			h.nothingLeft()
			must(t, v.unstage())
		})
	}
}

func TestAPodThatReadsOnlyGetsAMountItCannotWriteTo(t *testing.T) {
	h, _ := newModesHost(t)
	v := h.createIn("data", inMode("host"), withMode(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER))
	must(t, v.stage())
	reader, writer := h.target("reader"), h.target("writer")
	readOnly := func(r *csi.NodePublishVolumeRequest) { r.Readonly = true }
	must(t, v.publishFor("plain", reader, readOnly))
	must(t, v.publishFor("plain", writer))
	if err := os.WriteFile(filepath.Join(reader, "file"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("the reader writes: %v", err)
	}
	must(t, os.WriteFile(filepath.Join(writer, "file"), nil, 0o600))
	refused(t, v.publishFor("plain", reader), codes.AlreadyExists, "read-only")
	must(t, v.unpublish(reader))
	must(t, v.unpublish(writer))
	must(t, v.unstage())

	// A reader that comes first finds a volume that was never written to.
	blank := h.createIn("blank", inMode("host"), withMode(csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY))
	must(t, blank.stage())
	refused(t, blank.publishFor("plain", h.target("blank")), codes.FailedPrecondition, "blank")
	h.nothingLeft()
}

func TestTheHostGivesTheFilesToThePodsGroup(t *testing.T) {
	h, _ := newModesHost(t)
	v := h.createIn("data", inMode("host"), withMode(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER))
	must(t, v.stage())
	target := h.target("plain")
	must(t, v.publishFor("plain", target))
	must(t, os.WriteFile(filepath.Join(target, "file"), nil, 0o600))
	must(t, v.unpublish(target))
	withGroup("4321")(v.cap)
	must(t, v.publishFor("plain", target))
	for _, name := range []string{"", "file"} {
		var stat unix.Stat_t
		must(t, unix.Stat(filepath.Join(target, name), &stat))
		if stat.Gid != 4321 || stat.Mode&0o060 != 0o060 {
			t.Errorf("%q has group %d and mode %o", name, stat.Gid, stat.Mode&0o7777)
		}
	}
	must(t, v.unpublish(target))
}

// TestThePodsPolicySaysWhetherAllFilesAreLookedAt has a file in a volume whose root folder is the group's already.
func TestThePodsPolicySaysWhetherAllFilesAreLookedAt(t *testing.T) {
	h, cluster := newModesHost(t)
	v := h.createIn("data", inMode("host"))
	withGroup("4321")(v.cap)
	must(t, v.stage())
	target := h.target("plain")
	must(t, v.publishFor("plain", target))
	must(t, os.WriteFile(filepath.Join(target, "file"), nil, 0o600))
	must(t, os.Chown(filepath.Join(target, "file"), 0, 0))
	must(t, v.unpublish(target))
	group := func() uint32 {
		var stat unix.Stat_t
		must(t, v.publishFor("plain", target))
		must(t, unix.Stat(filepath.Join(target, "file"), &stat))
		must(t, v.unpublish(target))
		return stat.Gid
	}
	cluster.policyOf = map[string]string{"plain": "OnRootMismatch"}
	if got := group(); got != 0 {
		t.Errorf("OnRootMismatch: the file has group %d", got)
	}
	must(t, v.unstage())
	withGroup("5432")(v.cap)
	must(t, v.stage())
	if got := group(); got != 5432 {
		t.Errorf("OnRootMismatch, another group than the root's: the file has group %d", got)
	}
	must(t, v.publishFor("plain", target))
	must(t, os.Chown(filepath.Join(target, "file"), 0, 0))
	must(t, v.unpublish(target))
	cluster.err = kube.ErrUnavailable
	refused(t, v.publishFor("plain", target), codes.Unavailable)
	cluster.err = nil
	delete(cluster.classOf, "plain") // host mode does without the pod
	if got := group(); got != 5432 {
		t.Errorf("a policy that cannot be looked up: the file has group %d", got)
	}
}

func TestAVolumeOnTheHostGrowsAndIsMeasured(t *testing.T) {
	h, _ := newModesHost(t)
	v := h.createIn("data", inMode("host"), withFS("xfs"))
	must(t, v.stage())
	target := h.target("plain")
	must(t, v.publishFor("plain", target))
	total := func() int64 {
		t.Helper()
		usage, err := v.stats(target)
		must(t, err)
		if len(usage) != 2 || usage[0].GetUnit() != csi.VolumeUsage_BYTES || usage[1].GetUnit() != csi.VolumeUsage_INODES || usage[1].GetTotal() == 0 {
			t.Fatalf("stats are %v", usage)
		}
		return usage[0].GetTotal()
	}
	before := total()
	size, err := v.expand(t.Context(), target, gib)
	if err != nil || size != gib {
		t.Fatalf("expanded to %d, %v", size, err)
	}
	if _, err := v.expand(t.Context(), h.staging(v.id), gib); err != nil {
		t.Errorf("once more: %v", err)
	}
	if after := total(); after < before+gib*4/10 {
		t.Errorf("%d bytes became %d", before, after)
	}
	must(t, v.unpublish(target))
	// Grown while nobody has it, it is larger for the next pod.
	if _, err := v.expand(t.Context(), h.staging(v.id), 2*gib); err != nil {
		t.Fatal(err)
	}
	must(t, v.publishFor("plain", target))
	if after := total(); after < gib*17/10 {
		t.Errorf("%d bytes at the next mount", after)
	}
	must(t, v.unpublish(target))
	must(t, v.unstage())
}

func TestAVolumeThatIsReadOnlyOnTheHostSaysThatItDoesNotGrow(t *testing.T) {
	h, _ := newModesHost(t)
	v := h.createIn("data", inMode("host"), withFS("xfs"))
	must(t, v.stage())
	target := h.target("plain")
	must(t, v.publishFor("plain", target)) // and so it has a file system
	must(t, v.unpublish(target))
	must(t, v.unstage())
	reader := v
	reader.cap = capability(withFS("xfs"), withMode(csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY))
	must(t, reader.stage())
	must(t, reader.publishFor("plain", target))
	for _, path := range []string{target, h.staging(v.id)} {
		_, err := reader.expand(t.Context(), path, gib)
		refused(t, err, codes.FailedPrecondition, v.id, "read-only")
	}
	must(t, reader.unpublish(target))
	size, err := reader.expand(t.Context(), h.staging(v.id), gib)
	if err != nil || size != gib {
		t.Errorf("with nobody on it: %d, %v", size, err)
	}
	must(t, reader.unstage())
	must(t, v.stage())
	must(t, v.publishFor("plain", target))
	usage, err := v.stats(target)
	if err != nil || usage[0].GetTotal() < gib*8/10 {
		t.Errorf("a writer finds %v, %v", usage, err)
	}
	must(t, v.unpublish(target))
	must(t, v.unstage())
}

func TestWhatTheHostCannotFormatOrMountIsSaidWithItsReason(t *testing.T) {
	mkfsOptions := func(options string) map[string]string {
		return map[string]string{mode.Key: "host", parameterMkfsOptions: options}
	}
	withoutPrograms := func(h *host, _ volume) { h.t.Setenv("PATH", h.t.TempDir()) }
	for name, test := range map[string]struct {
		fsType     string
		parameters map[string]string
		flags      []string
		before     func(h *host, v volume)
		code       codes.Code
		words      []string
	}{
		"mkfs refuses the options": {"ext4", mkfsOptions("-b 1024 -I 4096"), nil, nil, codes.InvalidArgument, []string{"mkfs.ext4", "-b 1024 -I 4096"}},
		"mkfs is missing":          {"xfs", inMode("host"), nil, withoutPrograms, codes.FailedPrecondition, []string{"mkfs.xfs", "install xfsprogs"}},
		"fsck is missing": {"ext4", inMode("host"), nil, func(h *host, v volume) {
			v.formatOnHost()
			if out, err := exec.Command("tune2fs", "-c", "1", "-C", "9", v.image()).CombinedOutput(); err != nil {
				h.t.Fatalf("%v: %s", err, out)
			}
			withoutPrograms(h, v)
		}, codes.FailedPrecondition, []string{"e2fsck", "install e2fsprogs"}},
		"mount is missing": {"xfs", inMode("host"), nil, func(h *host, v volume) {
			v.formatOnHost()
			withoutPrograms(h, v)
		}, codes.FailedPrecondition, []string{"mount(8)"}},
		"the kernel refuses an option": {"xfs", inMode("host"), []string{"logbufs=1"}, nil, codes.FailedPrecondition, []string{"logbufs=1"}},
	} {
		t.Run(name, func(t *testing.T) {
			h, _ := newModesHost(t)
			v := h.createIn("data", test.parameters, withFS(test.fsType), withFlags(test.flags...))
			must(t, v.stage())
			if test.before != nil {
				test.before(h, v)
			}
			refused(t, v.publishFor("plain", h.target("plain")), test.code, append(test.words, v.id)...)
			h.nothingLeft()
			must(t, v.unstage())
		})
	}
}

// formatOnHost has the volume formatted, and nobody use it.
func (v volume) formatOnHost() {
	v.h.t.Helper()
	target := v.h.target("first")
	must(v.h.t, v.publishFor("plain", target))
	must(v.h.t, v.unpublish(target))
}

// Staged state lies in /run, where people tidy up.
func TestMountsAreFoundWithoutStagedState(t *testing.T) {
	h, _ := newModesHost(t)
	v := h.createIn("data", inMode("host"))
	must(t, v.stage())
	target := h.target("plain")
	must(t, v.publishFor("plain", target))
	must(t, os.RemoveAll(h.path("state", "staged")))
	h.restart()
	refused(t, v.delete(), codes.FailedPrecondition, "/dev/loop")
	must(t, v.stage())
	v.h.cluster.(*fakeCluster).claim = mode.Direct
	refused(t, v.publishFor("machine", h.target("machine")), codes.FailedPrecondition, "ordinary pod")
	must(t, os.RemoveAll(h.path("state", "staged")))
	h.restart()
	must(t, v.unpublish(target))
	must(t, v.unstage())
	h.nothingLeft()
	must(t, v.delete())
}

// TestAKilledDriverLeavesNothingThatTheNextOneDoesNotFind goes through the states between two steps.
func TestAKilledDriverLeavesNothingThatTheNextOneDoesNotFind(t *testing.T) {
	for name, kill := range map[string]func(h *host, v volume, target string){
		"before the loop device": func(h *host, v volume, target string) {
			must(h.t, h.driver.pool.MarkHostOnly(h.t.Context(), v.id))
			h.setOnHost(v)
		},
		"before the format": func(h *host, v volume, target string) {
			must(h.t, h.driver.pool.MarkHostOnly(h.t.Context(), v.id))
			h.setOnHost(v)
			_, err := h.loops().Attach(h.t.Context(), v.image(), false)
			must(h.t, err)
		},
		"before the bind": func(h *host, v volume, target string) {
			must(h.t, v.publishFor("plain", target))
			must(h.t, unix.Unmount(target, 0))
		},
		"after the bind went": func(h *host, v volume, target string) {
			must(h.t, v.publishFor("plain", target))
			must(h.t, unix.Unmount(target, 0))
			must(h.t, os.Remove(target))
		},
		"before staged state says so": func(h *host, v volume, target string) {
			must(h.t, v.publishFor("plain", target))
			must(h.t, v.unpublish(target))
			h.setOnHost(v)
		},
	} {
		for _, next := range []string{"publish", "publish for a machine", "unpublish", "unstage"} {
			t.Run(name+", "+next, func(t *testing.T) {
				h, _ := newModesHost(t)
				v := h.createIn("data", inMode("auto"))
				must(t, v.stage())
				target := h.target("plain")
				kill(h, v, target)
				h.restart()
				switch next {
				case "publish":
					must(t, v.publishFor("plain", target))
					must(t, os.WriteFile(filepath.Join(target, "file"), nil, 0o600))
					must(t, v.unpublish(target))
				case "publish for a machine":
					must(t, v.publishFor("machine", target))
					must(t, v.unpublish(target))
				case "unpublish":
					must(t, v.unpublish(target))
				}
				must(t, v.unstage())
				h.nothingLeft()
				must(t, v.delete())
			})
		}
	}
}

// An inline volume is not staged, and made and deleted with its pod.
func TestAnInlineVolumeOfAnOrdinaryPodIsMountedOnTheHost(t *testing.T) {
	h, cluster := newModesHost(t)
	cluster.classOf["pod"] = ""
	i := h.inline("pod-1")
	refused(t, i.publish(), codes.FailedPrecondition, "virtual machine")
	h.nothingLeft()
	for range 2 {
		must(t, i.publish(mode.Key, "auto"))
	}
	if mounts := h.mountsBelow(h.dir); len(mounts) != 1 || mounts[0] != i.target {
		t.Fatalf("mounted at %v", mounts)
	}
	must(t, os.WriteFile(filepath.Join(i.target, "file"), nil, 0o600))
	h.restart()
	must(t, i.publish(mode.Key, "auto"))
	must(t, i.unpublish())
	must(t, i.unpublish())
	h.nothingLeft()
	if v, err := i.volume(); err == nil {
		t.Errorf("the volume is left: %+v", v)
	}
	refused(t, i.publish(mode.Key, "host", parameterAllowGuestData, "true"), codes.InvalidArgument, parameterAllowGuestData)
}

// TestASnapshotOfAVolumeOnTheHostIsOneForTheHost: what only the host has written stays so in its copies, and a copy is
// mounted beside its source.
func TestASnapshotOfAVolumeOnTheHostIsOneForTheHost(t *testing.T) {
	for _, fsType := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fsType, func(t *testing.T) {
			h, _ := newModesHost(t)
			v := h.createIn("data", inMode("auto"), withFS(fsType))
			must(t, v.stage())
			source := h.target("source")
			must(t, v.publishFor("plain", source))
			must(t, os.WriteFile(filepath.Join(source, "file"), []byte("text"), 0o600))
			request := &csi.CreateSnapshotRequest{Name: "snapshot", SourceVolumeId: v.id,
				Parameters: map[string]string{parameterFreezeLimit: "1m"}} // for as long as the disk takes
			taken, err := h.CreateSnapshot(t.Context(), request)
			must(t, err)
			for deadline := time.Now().Add(time.Minute); !taken.GetSnapshot().GetReadyToUse() && time.Now().Before(deadline); {
				taken, err = h.CreateSnapshot(t.Context(), request)
				must(t, err)
			}
			r := createRequest("copy", gib/2, withFS(fsType))
			r.Parameters = inMode("auto")
			r.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
				Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: taken.GetSnapshot().GetSnapshotId()}}}
			made, err := h.CreateVolume(t.Context(), r)
			must(t, err)
			w := volume{h: h, id: made.GetVolume().GetVolumeId(), context: made.GetVolume().GetVolumeContext(), cap: r.VolumeCapabilities[0]}
			must(t, w.stage())
			must(t, w.publishFor("plain", h.target("copy")))
			if got := readFile(t, filepath.Join(h.target("copy"), "file"), 4); got != "text" {
				t.Errorf("the copy holds %q", got)
			}
			must(t, os.WriteFile(filepath.Join(source, "file"), []byte("more"), 0o600))
			must(t, w.unpublish(h.target("copy")))
			must(t, v.unpublish(source))
			h.nothingLeft()
		})
	}
}
