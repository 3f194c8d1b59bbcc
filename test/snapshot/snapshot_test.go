// Package snapshot proves that snapshots of volumes in use are what they say: the disk as it was at one moment, with
// all that was durable then. Real pods write, real machines are frozen, and what comes back is looked at with the file
// systems' own checkers.
package snapshot

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/test/artifacts"
	"github.com/katadirect/katadirect/test/snapshot/wal"
)

func TestMain(m *testing.M) { artifacts.Main(m) }

const (
	mib = int64(1) << 20
	// idle keeps a container running until it is asked to end.
	idle = `trap "exit 0" TERM; while :; do sleep 1 & wait; done`
	// patience is for what takes milliseconds on a host that has nothing else to do.
	patience = time.Minute

	// snapshotsEach is how many snapshots are taken in each kind of pool, of volumes with two file systems in turn.
	snapshotsEach = 25
	groupsEach    = 4
	killsEach     = 3
)

// scene is a node whose pool is on a file system of its own, and a pod that writes the same numbers into two volumes.
type scene struct {
	t      *testing.T
	node   *kubelet.Node
	pod    *lab.Pod
	ext4   *kubelet.Volume
	xfs    *kubelet.Volume
	btrfs  *kubelet.Volume // in use, and not written to
	writer *lab.Container
}

func TestSnapshotsOfVolumesInUseHoldAPrefixOfWhatWasWritten(t *testing.T) {
	for name, poolFS := range map[string]string{"reflinked": "xfs", "copied by QEMU": "ext4"} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, poolFS)
			t.Run("one after the other", s.testSnapshots)
			t.Run("of both volumes at one moment", s.testGroups)
			t.Run("with the driver killed meanwhile", s.testKills)
			t.Run("used by the next pod beside each other", s.testCopiesInOnePod)
		})
	}
}

func newScene(t *testing.T, poolFS string) *scene {
	t.Helper()
	options := artifacts.NodeOptions(lab.Debian)
	options.Pool = mountPool(t, poolFS)
	s := &scene{t: t, node: artifacts.NodeWith(t, options)}
	program := filepath.Join(s.node.Lab.Dir, "writer")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "./writer")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	uid := uuid.NewString()
	s.ext4, s.xfs = s.node.Volume("of-ext4", 128*mib, "ext4"), s.node.Volume("of-xfs", 320*mib, "xfs")
	s.btrfs = s.node.Volume("of-btrfs", 256*mib, "btrfs")
	mounts := []lab.Mount{s.use(s.ext4, uid, "/ext4"), s.use(s.xfs, uid, "/xfs"), s.use(s.btrfs, uid, "/btrfs")}
	s.pod = s.runPod("writer", uid)
	var err error
	s.writer, err = s.pod.Run(t.Context(), lab.ContainerSpec{
		Name: "writer", Command: []string{"/bin/writer", "/dev/shm/progress", "/ext4/log", "/xfs/log"},
		Mounts: append(mounts, lab.Mount{HostPath: program, ContainerPath: "/bin/writer", ReadOnly: true}),
	})
	must(t, err)
	s.writtenAfter(t, 0)
	return s
}

// mountPool makes a file system of its own for a pool.
func mountPool(t *testing.T, fsType string) string {
	t.Helper()
	image, point := filepath.Join(t.TempDir(), "disk"), t.TempDir()
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 16<<30))
	run(t, "mkfs."+fsType, "-q", image)
	run(t, "mount", "-o", "loop", image, point)
	t.Cleanup(func() { run(t, "umount", point) })
	must(t, os.Chmod(point, 0o700))
	return point
}

// use makes a volume for a pod that is about to run, and takes it back at the test's end.
func (s *scene) use(v *kubelet.Volume, podUID, at string) lab.Mount {
	t := s.t
	t.Helper()
	must(t, v.Create(t.Context()))
	must(t, v.Stage(t.Context()))
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		must(t, errors.Join(s.node.RemovePods(ctx), v.Unpublish(ctx, podUID), v.Unstage(ctx), v.Delete(ctx)))
	})
	must(t, v.Publish(t.Context(), podUID))
	return lab.Mount{HostPath: v.TargetPath(podUID), ContainerPath: at}
}

func (s *scene) runPod(name, uid string) *lab.Pod {
	s.t.Helper()
	pod, err := s.node.Lab.RunPod(s.t.Context(), lab.PodSpec{Name: name, Handler: kubelet.Handler, UID: uid})
	must(s.t, err)
	return pod
}

// written is how many records the writer has made durable in both logs.
func (s *scene) written(t *testing.T) int {
	t.Helper()
	said, err := s.writer.Exec(t.Context(), "sh", "-c", "cat /dev/shm/progress || echo 0")
	must(t, err)
	n, err := strconv.Atoi(strings.TrimSpace(said))
	must(t, err)
	return n
}

// writtenAfter waits until the writer is beyond n.
func (s *scene) writtenAfter(t *testing.T, n int) {
	t.Helper()
	for deadline := time.Now().Add(patience); s.written(t) <= n; {
		if time.Now().After(deadline) {
			t.Fatalf("the writer does not get beyond %d", n)
		}
	}
}

// taken is a snapshot, and what must be in it.
type taken struct {
	id            string
	of            *kubelet.Volume
	before, after int // records that were durable in both logs before it was begun and after it was there
}

// take takes a snapshot when so many records have been written.
func (s *scene) take(t *testing.T, v *kubelet.Volume, name string, written int) taken {
	t.Helper()
	one := taken{of: v, before: written}
	snapshot, err := v.Snapshot(t.Context(), name)
	must(t, err)
	one.id, one.after = snapshot.GetSnapshotId(), s.written(t)
	return one
}

func (s *scene) testSnapshots(t *testing.T) {
	var all []taken
	began, written := time.Now(), s.written(t)
	for i := range snapshotsEach {
		one := s.take(t, []*kubelet.Volume{s.ext4, s.xfs}[i%2], fmt.Sprint("snapshot-", i), written)
		all, written = append(all, one), one.after
	}
	s.writtenAfter(t, written)
	t.Logf("%d snapshots in %v, %d records written", len(all), time.Since(began), written)
	for _, one := range all {
		s.check(t, one)
		must(t, s.node.DeleteSnapshot(t.Context(), one.id))
	}
}

// check restores a snapshot and returns how many records it has: all that were durable before, none that came later,
// and none in pieces.
func (s *scene) check(t *testing.T, one taken) int {
	t.Helper()
	v := s.node.Volume("restored-"+one.id, one.of.SizeBytes, one.of.FSType)
	v.Source = one.id
	must(t, v.Create(t.Context()))
	defer func() { must(t, v.Delete(context.WithoutCancel(t.Context()))) }()
	n := recordsOf(t, v)
	// The writer may have written one more to this log than it had told of.
	if n < one.before || n > one.after+1 {
		t.Errorf("%s of %s has %d records; %d were durable before, %d after", one.id, v.FSType, n, one.before, one.after)
	}
	return n
}

// recordsOf checks the file system of an image that no machine has, and reads the log in it.
func recordsOf(t *testing.T, v *kubelet.Volume) (n int) {
	t.Helper()
	options := "loop,ro"
	if v.FSType == "ext4" {
		run(t, "e2fsck", "-fn", v.Image()) // clean, and with nothing to replay
		options += ",noload"
	} else {
		options = "loop,nouuid" // a frozen xfs leaves its log to be replayed
	}
	point := t.TempDir()
	run(t, "mount", "-o", options, "-t", v.FSType, v.Image(), point)
	f, err := os.Open(filepath.Join(point, "log"))
	if err == nil {
		n, err = wal.Read(f)
		err = errors.Join(err, f.Close())
	}
	run(t, "umount", point)
	if err != nil {
		t.Errorf("%s of %s: %v", v.Source, v.FSType, err)
	}
	if v.FSType == "xfs" {
		run(t, "xfs_repair", "-n", v.Image())
	}
	return n
}

// Each number is in the first log before it is in the second, so of one moment they differ by one at most.
func (s *scene) testGroups(t *testing.T) {
	for i := range groupsEach {
		before := s.written(t)
		g, err := s.node.GroupSnapshot(t.Context(), fmt.Sprint("group-", i), s.xfs, s.ext4)
		must(t, err)
		after := s.written(t)
		records := map[string]int{}
		for _, member := range g.GetSnapshots() {
			of := s.ext4
			if member.GetSourceVolumeId() == s.xfs.ID {
				of = s.xfs
			}
			records[of.FSType] = s.check(t, taken{id: member.GetSnapshotId(), of: of, before: before, after: after})
		}
		if ahead := records["ext4"] - records["xfs"]; len(records) != 2 || ahead < 0 || ahead > 1 {
			t.Errorf("two volumes at one moment: %v", records)
		}
		must(t, s.node.DeleteGroupSnapshot(t.Context(), g))
	}
	s.writtenAfter(t, s.written(t))
}

// Whenever the driver dies, the writer goes on, nothing is left, and the call can be repeated.
func (s *scene) testKills(t *testing.T) {
	for i := range killsEach {
		name, v := fmt.Sprint("killed-", i), []*kubelet.Volume{s.ext4, s.xfs}[i%2]
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, _ = v.Snapshot(ctx, name) // whatever becomes of it
		}()
		time.Sleep(time.Duration(rand.IntN(150)) * time.Millisecond)
		s.node.Driver().Kill()
		<-s.node.Driver().Done()
		cancel()
		<-ended
		s.writtenAfter(t, s.written(t))
		must(t, s.node.StartDriver(t.Context()))
		entries, err := os.ReadDir(filepath.Dir(filepath.Dir(v.Image())))
		must(t, err)
		if slices.ContainsFunc(entries, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), ".making-") }) {
			t.Errorf("half of a snapshot is left: %v", entries)
		}
		one := s.take(t, v, name, 0) // it may have been whole already when the driver was killed
		s.check(t, one)
		must(t, s.node.DeleteSnapshot(t.Context(), one.id))
	}
}

// Copies of one file system, which have its identity too, are used by one pod, also larger than it was, and beside a
// clone of a volume that is in use.
func (s *scene) testCopiesInOnePod(t *testing.T) {
	snapshot := s.take(t, s.xfs, "for-the-next-pod", 0)
	_, err := s.writer.Exec(t.Context(), "sh", "-c", "echo kept >/btrfs/file")
	must(t, err)
	ofBtrfs, err := s.btrfs.Snapshot(t.Context(), "of-btrfs-for-the-next-pod")
	must(t, err)
	for _, id := range []string{snapshot.id, ofBtrfs.GetSnapshotId()} {
		s.t.Cleanup(func() { must(s.t, s.node.DeleteSnapshot(context.WithoutCancel(s.t.Context()), id)) })
	}
	uid := uuid.NewString()
	var mounts []lab.Mount
	for _, c := range []struct {
		name, source string
		like         *kubelet.Volume
		size         int64
	}{
		{"same", snapshot.id, s.xfs, 320 * mib},
		{"larger", snapshot.id, s.xfs, 640 * mib},
		{"clone", s.ext4.ID, s.ext4, 512 * mib},
		{"btrfs1", ofBtrfs.GetSnapshotId(), s.btrfs, 256 * mib},
		{"btrfs2", ofBtrfs.GetSnapshotId(), s.btrfs, 512 * mib},
	} {
		v := s.node.Volume(c.name, c.size, c.like.FSType)
		v.Source = c.source
		mounts = append(mounts, s.use(v, uid, "/"+c.name))
	}
	pod := s.runPod("next", uid)
	c, err := pod.Run(t.Context(), lab.ContainerSpec{Name: "reader", Command: []string{"sh", "-c", idle}, Mounts: mounts})
	must(t, err)
	sums, err := c.Exec(t.Context(), "sh", "-c", "sha256sum </same/log; sha256sum </larger/log; echo more >>/same/log; echo >>/clone/log")
	must(t, err)
	if one, other, _ := strings.Cut(sums, "\n"); one == "" || one != strings.TrimSpace(other) {
		t.Errorf("two copies of one log: %q", sums)
	}
	kept, err := c.Exec(t.Context(), "sh", "-c", "cd /; echo 1 >>btrfs1/file; echo 2 >>btrfs2/file; sync; cat btrfs1/file btrfs2/file")
	must(t, err)
	if kept != "kept\n1\nkept\n2\n" {
		t.Errorf("two copies of one btrfs hold %q", kept)
	}
	sizes, err := c.Exec(t.Context(), "sh", "-c", "df -P -m /same /larger /clone | awk 'NR > 1 {print $2}'")
	must(t, err)
	var same, larger, clone int
	if _, err := fmt.Sscan(sizes, &same, &larger, &clone); err != nil || larger < same+300 || clone < 400 {
		t.Errorf("the guest's file systems have %q MiB, %v", sizes, err)
	}
	must(t, pod.Remove(t.Context()))
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if said, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Errorf("%s %v: %v\n%s", name, args, err, said)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
