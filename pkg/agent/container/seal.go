package container

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Seal copies a program into memory that nobody can write to, and returns the
// path by which children of this process run it.
//
// crun must not be written to by a container that gets hold of its
// /proc/self/exe. It sees to that itself by making a protected copy and
// starting a second time from it, which is half of what a call of crun costs.
// From a sealed memory file it knows that there is nothing to protect.
func Seal(program string) (path string, err error) {
	file, err := os.Open(program)
	if err != nil {
		return "", fmt.Errorf("seal a program: %w", err)
	}
	defer file.Close()
	fd, err := unix.MemfdCreate("sealed", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return "", fmt.Errorf("seal %s: %w", program, err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	// The kernel copies: half a megabyte of the agent's own memory would be the first thing that it has to collect.
	const most = 1 << 30
	for {
		n, err := unix.Sendfile(fd, int(file.Fd()), nil, most)
		if n == 0 && err == nil {
			break
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return "", fmt.Errorf("seal %s: %w", program, err)
		}
	}
	// These four, no more and no fewer, are what crun looks for.
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return "", fmt.Errorf("seal %s: %w", program, err)
	}
	// The descriptor stays open for as long as this process lives.
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd), nil
}
