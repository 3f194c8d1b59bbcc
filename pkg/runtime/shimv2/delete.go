package shimv2

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/katadirect/katadirect/internal/pidfd"
)

// cleanupTimeout is a little less than containerd gives the command.
const cleanupTimeout = 4500 * time.Millisecond

// killed is 128 and SIGKILL: what containerd reports for the processes of a shim that died.
const killed = 128 + 9

// cleanUp is the delete command: containerd calls it when a shim is dead, or has stopped answering, once for each of
// its containers and possibly at the same time. It prints what the exit of the container is to be taken for.
func cleanUp(o options, c Config) error {
	log := newLogger(os.Stderr, levelOf(o)).With("id", o.id)
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()

	if err := cleanUpSandbox(ctx, o, c, log); err != nil {
		return err
	}
	if err := detach(filepath.Join(o.bundle, "rootfs")); err != nil {
		return err
	}
	return printExit(os.Stdout, time.Now())
}

func cleanUpSandbox(ctx context.Context, o options, c Config, log *slog.Logger) error {
	sandboxID, err := c.SandboxOf(o.bundle, o.id)
	if err != nil {
		// A bundle whose config.json is gone, or was never written. A container's machine, if it had one, bears its id.
		log.Warn("the bundle does not say which sandbox it belongs to", "error", err)
		sandboxID = o.id
	}
	address := socketAddress(o, sandboxID)
	if sandboxID != o.id {
		if answers(address) {
			return nil // the pod lives on without this container, and its shim looks after what is left of it
		}
	} else {
		if err := endDaemon(ctx, o); err != nil {
			return err
		}
		if err := os.Remove(socketPath(address)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := c.Cleanup(ctx, sandboxID, log); err != nil {
		return fmt.Errorf("clean up after sandbox %s: %w", sandboxID, err)
	}
	return nil
}

// leaveGrace is how long a daemon that was told to shut down may take. containerd calls delete at that moment, too.
const leaveGrace = 1500 * time.Millisecond

// endDaemon sees to it that the daemon that the bundle's pid file names is gone. One that has not been told to shut
// down, or does not get through with it, is killed: containerd has given it up.
func endDaemon(ctx context.Context, o options) error {
	data, err := os.ReadFile(filepath.Join(o.bundle, pidFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return fmt.Errorf("%s: %w", pidFile, err)
	}
	daemon, err := pidfd.Open(pid)
	if err != nil {
		return err
	}
	defer daemon.Close()
	// It is held; only now can the number not be somebody else's.
	if !isDaemon(pid, o.id) {
		return nil
	}
	grace, cancel := context.WithTimeout(ctx, leaveGrace)
	defer cancel()
	if daemon.Wait(grace) == nil {
		return nil
	}
	return daemon.Kill(ctx)
}

// isDaemon tells by its command line whether the process is the daemon for that container.
func isDaemon(pid int, id string) bool {
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return false
	}
	return bytes.Contains(cmdline, []byte("-publish-binary\x00")) && bytes.Contains(cmdline, []byte("\x00-id\x00"+id+"\x00"))
}

// detach unmounts a root file system that was mounted in the host's own namespace. The daemon's mounts are in its own
// and end with it; this is for what somebody else may have mounted there.
func detach(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return fmt.Errorf("unmount %s: %w", path, err)
}

func printExit(w io.Writer, at time.Time) error {
	data, err := proto.Marshal(&taskapi.DeleteResponse{ExitStatus: killed, ExitedAt: timestamppb.New(at)})
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}
