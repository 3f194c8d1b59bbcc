package shimv2

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// delete runs the delete command and checks its answer.
func (r *rig) delete(bundle, id string) {
	r.Helper()
	cmd := r.shim(bundle, id, "-bundle", bundle, "delete")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		r.Errorf("delete %s: %v: %s", id, err, &stderr)
		return
	}
	var resp taskapi.DeleteResponse
	if err := proto.Unmarshal(stdout.Bytes(), &resp); err != nil {
		r.Errorf("delete %s printed %q: %v", id, &stdout, err)
		return
	}
	if resp.GetExitStatus() != 137 || time.Since(resp.GetExitedAt().AsTime()) > time.Minute {
		r.Errorf("delete %s answered %v, want a kill just now", id, &resp)
	}
}

func TestDeleteCleansUpAfterADeadShim(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := r.start("pod", "")
	c1 := r.bundle("c1", "pod")
	if _, err := d.client.Create(r.Context(), &taskapi.CreateTaskRequest{ID: "pod", Bundle: d.bundle}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(d.pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.awaitEnd(d.pid)

	// containerd calls for every container of the pod, at the same time, and again after a restart.
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { r.delete(d.bundle, "pod") })
		wg.Go(func() { r.delete(c1, "c1") })
	}
	wg.Wait()
	if !r.noted("cleaned-pod") || r.noted("cleaned-c1") {
		t.Error("want the sandbox cleaned up, and nothing of the name of its container")
	}
	if exists(d.socket()) {
		t.Error("the socket is left")
	}
	if err := os.Remove(filepath.Join(d.bundle, "rootfs")); err != nil {
		t.Errorf("the root file system is still mounted: %v", err)
	}
}

func TestDeleteEndsAShimThatContainerdHasGivenUp(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := r.start("c1", "")
	if err := unix.Kill(d.pid, unix.SIGSTOP); err != nil { // it does not answer any more, and no SIGTERM would end it
		t.Fatal(err)
	}
	r.delete(d.bundle, "c1")
	if err := unix.Kill(d.pid, 0); err == nil && !isZombie(t, d.pid) {
		t.Error("the shim still lives")
	}
	if !r.noted("cleaned-c1") {
		t.Error("nothing was cleaned up")
	}
}

// containerd asks for the shutdown, closes its connection, and calls delete because the connection is closed.
func TestDeleteLetsAShimFinishItsShutdown(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.env = append(r.env, closeTakes+"=300ms")
	d := r.start("c1", "")
	if _, err := d.client.Shutdown(r.Context(), &taskapi.ShutdownRequest{}); err != nil {
		t.Fatal(err)
	}
	r.delete(d.bundle, "c1")
	if !r.noted("closed") {
		t.Error("the shim was killed on its way out")
	}
	r.events.await(1)
}

// isZombie tells whether nothing is left of a process but its entry, which its parent, here some init, is to take and may
// have taken by now.
func isZombie(t *testing.T, pid int) bool {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return true
	}
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(stat, []byte(") Z "))
}

func TestDeleteOfOneContainerLeavesALivingPodAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := r.start("pod", "")
	r.delete(r.bundle("c1", "pod"), "c1")
	if r.noted("cleaned-pod") {
		t.Error("the living pod was cleaned up")
	}
	if _, err := d.client.Connect(r.Context(), &taskapi.ConnectRequest{}); err != nil {
		t.Errorf("the pod's shim: %v", err)
	}
}

func TestDeleteTrustsNoForeignPid(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	other := r.shim(r.dir, "somebody-else")
	other.Path, other.Args = "/bin/sleep", []string{"sleep", "1000000"}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer other.Wait() //nolint:errcheck // killed
	defer other.Process.Kill()
	bundle := r.bundle("c1", "")
	for _, content := range []string{itoa(other.Process.Pid), "1", "999999999"} {
		if err := os.WriteFile(filepath.Join(bundle, "shim.pid"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		r.delete(bundle, "c1")
	}
	if isZombie(t, other.Process.Pid) {
		t.Error("a process that is no shim was killed")
	}
}

func TestDeleteWorksOnABundleThatIsHalfGone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.delete(t.TempDir(), "c1")
	if !r.noted("cleaned-c1") {
		t.Error("nothing was cleaned up")
	}
}
