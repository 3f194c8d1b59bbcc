package filesystem

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
)

// packages are Debian's packages of the programs that are run here, for people who lack one.
var packages = map[string]string{
	"mkfs.ext2": "e2fsprogs", "mkfs.ext3": "e2fsprogs", "mkfs.ext4": "e2fsprogs", "e2fsck": "e2fsprogs",
	"mkfs.xfs": "xfsprogs", "mkfs.btrfs": "btrfs-progs", "btrfstune": "btrfs-progs",
}

// run says of a program that is missing where to get it.
func (t Tools) run(ctx context.Context, name string, args ...string) (output []byte, status int, err error) {
	output, status, err = t(ctx, name, args...)
	if errors.Is(err, exec.ErrNotFound) {
		err = fmt.Errorf("%w: install %s, which has %s", ErrNoProgram, packages[name], name)
	}
	return output, status, err
}

// HostTools is the Tools of a program that waits for its own children. What it runs does not outlive it: two that write to
// one device, the one of a killed driver and the one of the next, would destroy it.
func HostTools(ctx context.Context, name string, args ...string) ([]byte, int, error) {
	// The signal comes when the thread ends that has started the program.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(cmd.Environ(), "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	output, err := cmd.CombinedOutput()
	if ended := (*exec.ExitError)(nil); errors.As(err, &ended) && ended.ExitCode() >= 0 {
		return output, ended.ExitCode(), nil
	}
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%s: %w", name, ctx.Err())
	}
	return output, 0, err
}
