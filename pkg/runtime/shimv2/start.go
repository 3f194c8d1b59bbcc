package shimv2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/durable"
	"github.com/katadirect/katadirect/internal/rollback"
)

// Files in the bundle: address is how a restarted containerd finds the shim, the pid is for people and for delete.
const (
	addressFile = "address"
	pidFile     = "shim.pid"
)

// Descriptors that the daemon inherits.
const (
	socketFD = 3
	readyFD  = 4
)

// readyTimeout bounds the daemon's own start. The machine is booted later, by Create.
const readyTimeout = 10 * time.Second

// start prints the address of the shim that is to serve the container: for a container in a pod that of the pod's,
// otherwise one that it starts. Nothing else may be written to stdout or, on success, to stderr: containerd reads
// both as the address.
func start(o options, c Config) error {
	sandboxID, err := c.SandboxOf(o.bundle, o.id)
	if err != nil {
		return err
	}
	unlock, err := lock(o.bundle)
	if err != nil {
		return err
	}
	defer unlock()
	address := socketAddress(o, sandboxID)
	if sandboxID != o.id {
		if !answers(address) {
			return fmt.Errorf("the shim of sandbox %s, which container %s belongs to, is not running", sandboxID, o.id)
		}
	} else if err := launch(o, address); err != nil && !errors.Is(err, errRunning) {
		return err
	}
	if err := durable.WriteFile(filepath.Join(o.bundle, addressFile), []byte(address), 0o600); err != nil {
		return err
	}
	_, err = fmt.Print(address)
	return err
}

// lock makes two starts for one bundle come one after the other: at the same time each would take the other's socket,
// before it listens, for that of a dead shim. The lock ends with the process at the latest.
func lock(bundle string) (unlock func(), err error) {
	dir, err := os.Open(bundle)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(dir.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock the bundle %s: %w", bundle, err), dir.Close())
	}
	return func() { dir.Close() }, nil
}

// launch makes the socket and starts the daemon behind it. When it returns, the daemon serves.
func launch(o options, address string) (err error) {
	var undo rollback.Stack
	defer undo.OnError(context.Background(), &err)

	l, err := listen(address)
	if err != nil {
		return err
	}
	defer l.Close()
	undo.Push("remove the socket", func(context.Context) error { return os.Remove(socketPath(address)) })

	socket, err := l.File()
	if err != nil {
		return err
	}
	defer socket.Close()
	ready, report, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()

	cmd, err := daemonCommand(o, socket, report)
	if err != nil {
		return errors.Join(err, report.Close())
	}
	err = cmd.Start()
	report.Close()
	if err != nil {
		return fmt.Errorf("start the shim's daemon: %w", err)
	}
	undo.Push("end the daemon", func(context.Context) error { cmd.Process.Kill(); cmd.Wait(); return nil })

	if err := awaitReady(ready); err != nil {
		return err
	}
	return raiseOOMScore(cmd.Process.Pid)
}

// daemonCommand is this program again, without a command. It gets
//
//   - a session of its own, so that nothing sent to containerd's terminal or group reaches it;
//   - a mount namespace of its own. What it mounts for the guest, root file systems and shared folders, is nobody
//     else's business: containerd, kubelet and other pods never see it, and if the shim is killed the kernel
//     unmounts all of it when the last process in the namespace is gone. New mounts of the host still arrive;
//   - no stdout and stderr: containerd waits for the end of both.
func daemonCommand(o options, socket, report *os.File) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := []string{
		"-namespace", o.namespace, "-address", o.address, "-publish-binary", o.publishBinary,
		"-id", o.id, "-bundle", o.bundle,
	}
	if o.debug {
		args = append(args, "-debug")
	}
	cmd := exec.Command(self, args...)
	cmd.Dir = o.bundle
	cmd.ExtraFiles = []*os.File{socket, report}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWNS}
	return cmd, nil
}

// awaitReady reads what the daemon has to say of its start: an empty report, or the error.
func awaitReady(ready *os.File) error {
	if err := ready.SetReadDeadline(time.Now().Add(readyTimeout)); err != nil {
		return err
	}
	report, err := io.ReadAll(io.LimitReader(ready, 4096))
	switch text := strings.TrimSpace(string(report)); {
	case err != nil:
		return fmt.Errorf("the shim's daemon did not start: %w", err)
	case text == readyWord:
		return nil
	case text == "":
		return errors.New("the shim's daemon ended as it started; containerd's log has what it said")
	default:
		return errors.New(text)
	}
}

const readyWord = "ready"

// maxOOMScore is the kernel's.
const maxOOMScore = 1000

// raiseOOMScore lets the kernel choose the shim, and with it one pod, before containerd, and with it the node. The
// score of this process is containerd's.
func raiseOOMScore(pid int) error {
	data, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return err
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return fmt.Errorf("own OOM score: %w", err)
	}
	path := fmt.Sprintf("/proc/%d/oom_score_adj", pid)
	return os.WriteFile(path, []byte(strconv.Itoa(min(score+1, maxOOMScore))), 0)
}
