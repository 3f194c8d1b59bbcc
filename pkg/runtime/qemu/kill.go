package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Kill ends the QEMU of the machine folder dir from a process that did not start it, and removes the folder. It is
// how a crashed shim's machine is cleaned up, though such a machine is normally dead already. A folder that is not
// there is success. A process is killed only if its command line names this very folder.
func Kill(ctx context.Context, dir string) error {
	if !filepath.IsAbs(dir) {
		return fmt.Errorf("kill virtual machine: folder %q is not an absolute path", dir)
	}
	dir = filepath.Clean(dir)
	if err := killProcess(ctx, dir); err != nil {
		return fmt.Errorf("kill virtual machine of %s: %w", dir, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("kill virtual machine: %w", err)
	}
	return nil
}

func killProcess(ctx context.Context, dir string) error {
	pid, alive := livingQEMU(dir)
	if !alive {
		return nil
	}
	// The descriptor stands for one process even if its number is used again; so look once more, through it.
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if again, alive := livingQEMU(dir); !alive || again != pid {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return awaitExit(ctx, fd, pid)
}

// awaitExit waits for the end of the process behind a pidfd; it becomes readable then.
func awaitExit(ctx context.Context, fd, pid int) error {
	ctx, cancel := context.WithTimeout(ctx, killGrace)
	defer cancel()
	const look = 50 * time.Millisecond // between looks at ctx; the end itself is noticed at once
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(look.Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n > 0 {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("process %d does not die: %w", pid, context.Cause(ctx))
		}
	}
}

// livingQEMU finds the process of the machine folder dir by the pid file that QEMU wrote. Numbers are used again, so
// what counts is that the process has the pid file's path on its command line; no two machines share that.
func livingQEMU(dir string) (pid int, alive bool) {
	path := pidFile(dir)
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return 0, false
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // empty for a zombie
	if err != nil {
		return 0, false
	}
	return pid, bytes.Contains(cmdline, []byte("\x00-pidfile\x00"+path+"\x00"))
}
