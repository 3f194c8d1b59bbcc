package shimv2

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"golang.org/x/sys/unix"
)

func TestStartPrintsTheAddressOfADaemonOfItsOwn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := r.start("c1", "")
	if !strings.HasPrefix(d.address, "unix:///run/containerd/s/") || len(filepath.Base(d.address)) != 64 {
		t.Errorf("address %q", d.address)
	}
	for file, want := range map[string]string{"address": d.address, "shim.pid": strconv.Itoa(d.pid)} {
		if got, err := os.ReadFile(filepath.Join(d.bundle, file)); err != nil || string(got) != want {
			t.Errorf("file %s in the bundle: %q, %v; want %q", file, got, err, want)
		}
	}
	info, err := os.Stat(d.socket())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v; want it for its owner alone", info.Mode(), err)
	}
	if sid, err := unix.Getsid(d.pid); err != nil || sid != d.pid {
		t.Errorf("session %d, %v; want its own", sid, err)
	}
	if got, want := processFile(t, d.pid, "oom_score_adj"), processFile(t, os.Getpid(), "oom_score_adj"); atoi(t, got) != min(atoi(t, want)+1, 1000) {
		t.Errorf("OOM score %s, want one more than containerd's %s", got, want)
	}
}

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestContainersOfOnePodShareItsShim(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	bundle := r.bundle("too-early", "pod")
	out, err := r.shim(bundle, "too-early", "start").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "sandbox pod") {
		t.Errorf("start before the pod: %v with %q, want a failure that names the pod", err, out)
	}
	pod := r.start("pod", "")
	c1 := r.start("c1", "pod")
	if c1.address != pod.address || c1.pid != pod.pid {
		t.Errorf("container at %s of process %d, pod at %s of %d", c1.address, c1.pid, pod.address, pod.pid)
	}
	if got, err := os.ReadFile(filepath.Join(c1.bundle, "address")); err != nil || string(got) != pod.address {
		t.Errorf("the container's address file: %q, %v", got, err)
	}
}

func TestStartIsRepeatable(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := r.start("c1", "")
	out, err := r.shim(d.bundle, "c1", "start").CombinedOutput()
	if err != nil || string(out) != d.address {
		t.Errorf("second start: %q, %v; want the same address", out, err)
	}
	if err := unix.Kill(d.pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.awaitEnd(d.pid)
	if !exists(d.socket()) {
		t.Fatal("the dead shim's socket is gone; nothing is tried here")
	}
	out, err = r.shim(d.bundle, "c1", "start").CombinedOutput()
	if err != nil || string(out) != d.address {
		t.Fatalf("start over a dead shim's socket: %q, %v", out, err)
	}
	pid, err := os.ReadFile(filepath.Join(d.bundle, "shim.pid"))
	if err != nil || atoi(t, string(pid)) == d.pid {
		t.Fatalf("pid %s, %v; want that of a new daemon", pid, err)
	}
	if err := unix.Kill(atoi(t, string(pid)), unix.SIGKILL); err != nil {
		t.Error(err)
	}
}

// The socket of a shim that is just being started looks like that of a dead one until it listens.
func TestStartsOfOneBundleComeOneAfterTheOther(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	bundle := r.bundle("c1", "")
	unlock, err := lock(bundle) // as another start command
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	address := socketAddress(options{namespace: "test", address: filepath.Join(r.dir, "containerd.sock")}, "c1")
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: socketPath(address)}); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(socketPath(address))

	start := r.shim(bundle, "c1", "start")
	var out bytes.Buffer
	start.Stdout, start.Stderr = &out, &out
	if err := start.Start(); err != nil {
		t.Fatal(err)
	}
	r.awaitLockWaiter(bundle)
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	unlock()
	if err := start.Wait(); err != nil || out.String() != address {
		t.Errorf("start: %v: %q, want %s", err, &out, address)
	}
	if exists(filepath.Join(bundle, pidFile)) {
		t.Error("there is a second daemon")
	}
}

// awaitLockWaiter waits until a process waits for the lock on a folder.
func (r *rig) awaitLockWaiter(dir string) {
	r.Helper()
	info, err := os.Stat(dir)
	if err != nil {
		r.Fatal(err)
	}
	inode := fmt.Sprintf(":%d ", info.Sys().(*syscall.Stat_t).Ino)
	for limit := time.Now().Add(patience); time.Now().Before(limit); time.Sleep(time.Millisecond) {
		locks, err := os.ReadFile("/proc/locks")
		if err != nil {
			r.Fatal(err)
		}
		for line := range strings.Lines(string(locks)) {
			if strings.Contains(line, "-> FLOCK") && strings.Contains(line, inode) {
				return
			}
		}
	}
	r.Fatal("nobody waits for the lock")
}

// halfStarted is a daemon whose start command has come no further than to start it.
func (r *rig) halfStarted(bundle, id string) (_ *exec.Cmd, ready *os.File) {
	r.Helper()
	o := options{namespace: "test", address: filepath.Join(r.dir, "containerd.sock"), id: id, bundle: bundle}
	l, err := listen(socketAddress(o, id))
	if err != nil {
		r.Fatal(err)
	}
	defer l.Close()
	socket, err := l.File()
	if err != nil {
		r.Fatal(err)
	}
	defer socket.Close()
	ready, report, err := os.Pipe()
	if err != nil {
		r.Fatal(err)
	}
	defer report.Close()
	cmd, err := daemonCommand(o, socket, report)
	if err != nil {
		r.Fatal(err)
	}
	cmd.Env = append(append(os.Environ(), asShim+"=1"), r.env...)
	if err := cmd.Start(); err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait(); _ = os.Remove(l.Addr().String()) })
	return cmd, ready
}

func TestADaemonWhoseStartWasKilledGoes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	cmd, ready := r.halfStarted(r.bundle("c1", ""), "c1")
	ready.Close()
	r.awaitEnd(cmd.Process.Pid)
}

func TestDeleteFindsADaemonWhoseStartWasKilledAtTheLastMoment(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	bundle := r.bundle("c1", "")
	cmd, ready := r.halfStarted(bundle, "c1")
	defer ready.Close()
	if err := awaitReady(ready); err != nil {
		t.Fatal(err)
	}
	r.delete(bundle, "c1")
	if !isZombie(t, cmd.Process.Pid) {
		t.Error("the daemon still lives")
	}
}

func TestAFailureOfTheDaemonIsTheStartsError(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.env = append(r.env, serveFails+"=the moon is full")
	bundle := r.bundle("c1", "")
	out, err := r.shim(bundle, "c1", "start").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "the moon is full") {
		t.Errorf("%v with %q, want the daemon's error", err, out)
	}
	if socket := socketPath(socketAddress(options{address: filepath.Join(r.dir, "containerd.sock"), namespace: "test"}, "c1")); exists(socket) {
		t.Errorf("socket %s is left", socket)
	}
}

func TestADaemonWithoutASocketSaysWhatItIs(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	out, err := r.shim(r.bundle("c1", ""), "c1").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "started by containerd") {
		t.Errorf("%v with %q", err, out)
	}
}

func TestTheShimsMountsAreItsOwn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := r.start("c1", "")
	if _, err := d.client.Create(r.Context(), &taskapi.CreateTaskRequest{ID: "c1", Bundle: d.bundle}); err != nil {
		t.Fatal(err)
	}
	rootfs := filepath.Join(d.bundle, "rootfs")
	if !strings.Contains(processFile(t, d.pid, "mountinfo"), " "+rootfs+" ") {
		t.Error("the shim does not see its own mount")
	}
	if strings.Contains(processFile(t, os.Getpid(), "mountinfo"), " "+rootfs+" ") {
		t.Error("the shim's mount is the host's too")
	}
	for line := range strings.Lines(processFile(t, d.pid, "mountinfo")) {
		if fields := strings.Fields(line); fields[4] == rootfs && !strings.HasPrefix(fields[6], "shared:") {
			t.Errorf("mount %q is not shared: a namespace below, as virtiofsd's, would not see it", line)
		}
	}
}

func TestShutdownEndsTheDaemonAndLeavesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := r.start("c1", "")
	if _, err := d.client.Shutdown(r.Context(), &taskapi.ShutdownRequest{}); err != nil {
		t.Fatal(err)
	}
	r.awaitEnd(d.pid)
	if exists(d.socket()) {
		t.Error("the socket is left")
	}
	if got := r.events.await(1); got[0].GetTopic() != "/tasks/exit" {
		t.Errorf("the last event was %v", got[0])
	}
}

func TestASignalEndsTheDaemonInOrder(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := r.start("c1", "")
	if err := unix.Kill(d.pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r.awaitEnd(d.pid)
	if !r.noted("closed") {
		t.Error("the service was not closed")
	}
	if exists(d.socket()) {
		t.Error("the socket is left")
	}
	r.events.await(1)
}

func itoa(n int) string { return strconv.Itoa(n) }
