package csi

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

// sequence is one volume in kubelet's hands.
type sequence struct {
	volume
	target string
}

// reboot takes away what a reboot does: everything in /run, loop devices and mounts. Kubelet's folders stay. Where /run is
// on a disk its files stay too, and are of another boot then.
func (s sequence) reboot(runOnDisk bool) {
	s.h.t.Helper()
	s.h.stop()
	_ = unix.Unmount(s.target, unix.UMOUNT_NOFOLLOW)
	if runOnDisk {
		s.ageBelow("records")
		s.ageBelow("state")
	} else {
		must(s.h.t, errors.Join(os.RemoveAll(s.h.path("records")), os.RemoveAll(s.h.path("state"))))
	}
	s.h.start() // and with nothing staged the start detaches the loop devices, as a reboot has
	if left := s.h.loopDevices(); len(left) > 0 {
		s.h.t.Errorf("loop devices after a reboot: %v", left)
	}
}

// ageBelow makes what the driver keeps for this boot something of another one.
func (s sequence) ageBelow(dir string) {
	boot, err := directvolume.BootID()
	must(s.h.t, err)
	must(s.h.t, filepath.WalkDir(s.h.path(dir), func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(text), boot) {
			return errors.Join(err, fmt.Errorf("%s does not say of which boot it is", path))
		}
		return os.WriteFile(path, []byte(strings.ReplaceAll(string(text), boot, "another-boot")), 0o600)
	}))
}

// step is one thing that happens, and the code that the driver answers with.
type step struct {
	what string
	do   func(s sequence) error
	want codes.Code
}

func (s sequence) unpublishOf(id string) error {
	_, err := s.h.NodeUnpublishVolume(s.h.t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: s.target})
	return err
}

func (s sequence) unstageOf(id string) error {
	_, err := s.h.NodeUnstageVolume(s.h.t.Context(), &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: s.h.staging(id)})
	return err
}

var (
	staged      = step{"stage", func(s sequence) error { return s.stage() }, codes.OK}
	published   = step{"publish", func(s sequence) error { return s.publish(s.target) }, codes.OK}
	unpublished = step{"unpublish", func(s sequence) error { return s.unpublish(s.target) }, codes.OK}
	unstaged    = step{"unstage", func(s sequence) error { return s.unstage() }, codes.OK}
	expanded    = step{"expand", func(s sequence) error { _, err := s.expand(s.h.t.Context(), s.target, gib); return err }, codes.OK}
	restarted   = step{"the driver restarts", func(s sequence) error { s.h.restart(); return nil }, codes.OK}
	rebooted    = step{"the node reboots", func(s sequence) error { s.reboot(false); return nil }, codes.OK}
	powerCut    = step{"the node reboots, and /run is a disk", func(s sequence) error { s.reboot(true); return nil }, codes.OK}
	deleted     = step{"delete", func(s sequence) error { return s.delete() }, codes.OK}
)

func (s step) but(code codes.Code) step {
	s.want = code
	return s
}

// holding has another call for the volume under way while the step is tried.
func holding(inner step) step {
	return step{inner.what + " while another call is under way", func(s sequence) error {
		release, taken := s.h.driver.node.(serialNode).locks.try(s.id)
		if release == nil {
			return errors.New("held: " + taken)
		}
		defer release()
		return inner.do(s)
	}, codes.Aborted}
}

// What kubelet really sends, for each kind of volume. After each sequence the data is as it was, and when the volume
// is unpublished and unstaged nothing is left of it on the node.
func TestKubeletsSequences(t *testing.T) {
	const unknownID = "kd-00000000-00000000000000000000000000000000"
	unpublishUnknown := func(id string) step {
		return step{"unpublish of unknown " + id, func(s sequence) error { return s.unpublishOf(id) }, codes.OK}
	}
	unstageUnknown := func(id string) step {
		return step{"unstage of unknown " + id, func(s sequence) error { return s.unstageOf(id) }, codes.OK}
	}
	stagingGone := step{"the staging folder is removed", func(s sequence) error { return os.RemoveAll(s.h.staging(s.id)) }, codes.OK}
	targetGone := step{"the target path is removed", func(s sequence) error {
		_ = unix.Unmount(s.target, unix.UMOUNT_NOFOLLOW)
		return os.Remove(s.target)
	}, codes.OK}
	podFolderGone := step{"the pod's folder is removed", func(s sequence) error {
		_ = unix.Unmount(s.target, unix.UMOUNT_NOFOLLOW)
		return os.RemoveAll(s.h.path("pods", "pod"))
	}, codes.OK}
	podFolderMade := step{"the pod's folder is made", func(s sequence) error { s.h.target("pod"); return nil }, codes.OK}
	sandbox := func(what string, claim bool) step {
		return step{what, func(s sequence) error {
			if !claim {
				return s.h.store().Release(s.h.t.Context(), s.target, "sandbox1")
			}
			s.h.runShim("sandbox1", nil).claim(s.target)
			return nil
		}, codes.OK}
	}
	elsewhere := func(do func(volume, string) error) step {
		return step{"another pod", func(s sequence) error { return do(s.volume, s.h.target("other")) }, codes.OK}
	}
	end := []step{unpublished, unstaged}
	sequences := map[string][]step{
		"a pod's life":                            {staged, published, unpublished, unstaged},
		"everything twice":                        {staged, staged, published, published, expanded, expanded, unpublished, unpublished, unstaged, unstaged},
		"kubelet restarts, the pod runs on":       {staged, published, sandbox("it runs", true), staged, published, sandbox("it ends", false)},
		"the driver restarts between all calls":   {staged, restarted, published, restarted, expanded, restarted, unpublished, restarted, unstaged, restarted},
		"unpublish and unstage of what never was": {unpublished, unstaged},
		"unpublish without stage":                 {unpublished, staged, published},
		"publish without stage":                   {published.but(codes.FailedPrecondition), staged, published},
		"unstage before unpublish":                {staged, published, unstaged.but(codes.FailedPrecondition), published},
		"unstage fails while the pod ends":        {staged, published, sandbox("it runs", true), unpublished.but(codes.FailedPrecondition), unstaged.but(codes.FailedPrecondition), sandbox("it ends", false)},
		"stage before the last unstage has ended": {staged, unstaged, holding(staged), staged, published},
		"publish before the last unpublish ended": {staged, published, holding(published), holding(unpublished), unpublished, published},
		"the next pod on the node":                {staged, published, unpublished, published, unpublished, unstaged, staged, published},
		"unknown volumes":                         {unpublishUnknown(unknownID), unstageUnknown(unknownID), unpublishUnknown("vol-1"), unstageUnknown("vol-1")},
		"another id at the path of a volume":      {staged, published, step{"unpublish", func(s sequence) error { return s.unpublishOf(unknownID) }, codes.FailedPrecondition}, published},
		"reboot, then the pod ends":               {staged, published, rebooted, unpublished, unstaged},
		"reboot, then the pod starts again":       {staged, published, rebooted, published.but(codes.FailedPrecondition), staged, published},
		"reboot between stage and publish":        {staged, rebooted, published.but(codes.FailedPrecondition), staged, published},
		"reboot, unstage first":                   {staged, published, rebooted, unstaged, unpublished},
		"/run on a disk, the pod ends":            {staged, published, powerCut, unpublished, unstaged},
		"/run on a disk, the pod starts again":    {staged, published, powerCut, published.but(codes.FailedPrecondition), staged, published},
		"/run on a disk, another pod gets it":     {staged, published, powerCut, staged, elsewhere((volume).publish), elsewhere((volume).unpublish)},
		"the staging folder is gone":              {staged, published, stagingGone, published, unpublished, unstaged},
		"the target path is gone":                 {staged, published, targetGone, unpublished, published, targetGone, published},
		"the pod's folder is gone":                {staged, published, podFolderGone, unpublished, unstaged, podFolderMade},
		"deleted while in use":                    {staged, deleted.but(codes.FailedPrecondition), published, deleted.but(codes.FailedPrecondition), sandbox("it runs", true), deleted.but(codes.FailedPrecondition), sandbox("it ends", false)},
		"an expansion after the pod has ended":    {staged, published, unpublished, expanded.but(codes.NotFound), unstaged, expanded.but(codes.NotFound)},
		"an expansion of a volume only staged":    {staged, step{"expand", func(s sequence) error { _, err := s.expand(s.h.t.Context(), s.h.staging(s.id), gib); return err }, codes.OK}},
		"an expansion while another is under way": {staged, published, holding(expanded), expanded},
		"a stage at another path": {staged, step{"stage elsewhere", func(s sequence) error {
			_, err := s.h.NodeStageVolume(s.h.t.Context(), &csi.NodeStageVolumeRequest{VolumeId: s.id, StagingTargetPath: s.h.path("elsewhere"), VolumeCapability: s.cap})
			return err
		}, codes.FailedPrecondition}, published},
		"an unstage at another path": {staged, step{"unstage elsewhere", func(s sequence) error {
			_, err := s.h.NodeUnstageVolume(s.h.t.Context(), &csi.NodeUnstageVolumeRequest{VolumeId: s.id, StagingTargetPath: s.h.path("elsewhere")})
			return err
		}, codes.OK}, published},
	}
	kinds := map[string][]func(*csi.VolumeCapability){
		"mounted": nil, "raw": {asBlock}, "mounted, shared by the node's pods": {withMode(csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER)},
	}
	for kind, change := range kinds {
		for name, steps := range sequences {
			t.Run(kind+"/"+name, func(t *testing.T) {
				h := newBlockHost(t)
				s := sequence{h.create("pvc", change...), h.target("pod")}
				writeFile(t, s.image(), "content")
				for n, step := range append(steps, end...) {
					refused(t, step.do(s), step.want)
					if t.Failed() {
						t.Fatalf("at step %d, %s", n, step.what)
					}
					if got := readFile(t, s.image(), 7); got != "content" {
						t.Fatalf("after step %d, %s, the volume holds %q", n, step.what, got)
					}
				}
				s.checkNothingLeft()
				must(t, s.delete())
			})
		}
	}
}

// checkNothingLeft looks for everything that the volume may have had on the node.
func (s sequence) checkNothingLeft() {
	t := s.h.t
	t.Helper()
	if _, err := os.Lstat(s.target); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the target path: %v", err)
	}
	if records, err := s.h.store().List(t.Context()); err != nil || len(records) > 0 {
		t.Errorf("records: %v, %v", records, err)
	}
	if staged, err := os.ReadDir(s.h.path("state", "staged")); err != nil || len(staged) > 0 {
		t.Errorf("staged: %v, %v", staged, err)
	}
	if devices := s.h.loopDevices(); len(devices) > 0 {
		t.Errorf("loop devices: %v", devices)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), s.h.dir) {
		t.Errorf("mounts are left, %v", err)
	}
}
