package directvolume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// AcquireLease makes and locks the lease of a sandbox. The lock belongs to the open file description: whoever
// inherits the descriptor (pass it to the hypervisor as an extra file) keeps it too, and the kernel drops it when the
// last of them is gone, however they ended. So it is locked exactly while the shim or the machine lives. Closing the
// file gives up this process's share. ErrLeaseHeld means that the sandbox's shim or machine already lives.
func (s Sandboxes) AcquireLease(id string) (*os.File, error) {
	if err := CheckSandboxID(id); err != nil {
		return nil, err
	}
	path := s.LeasePath(id)
	// Alive holds the lock for an instant when it looks, so one refusal proves nothing.
	deadline := time.Now().Add(200 * time.Millisecond)
	for {
		lease, err := tryLease(path)
		if err == nil {
			return lease, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("acquire the lease of sandbox %s: %w", id, err)
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%w: %s", ErrLeaseHeld, path)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// AcquireLease is Sandboxes.AcquireLease on the real host.
func AcquireLease(id string) (*os.File, error) { return Sandboxes{}.AcquireLease(id) }

// tryLease returns fs.ErrNotExist when somebody removed the folder between two of its steps.
func tryLease(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	lease, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lease.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lease.Close()
		return nil, err
	}
	// The lock may be on a file that a cleanup has unlinked meanwhile; nobody would ever find that one.
	mine, err := lease.Stat()
	if err == nil {
		var there os.FileInfo
		if there, err = os.Lstat(path); err == nil && !os.SameFile(mine, there) {
			err = fs.ErrNotExist
		}
	}
	if err != nil {
		lease.Close()
		return nil, err
	}
	return lease, nil
}

// LeaseHeld reports whether the sandbox's shim or machine holds its lease. Whoever gives back what a dead sandbox used
// asks this first; unlike Alive it does not mind processes that merely name the sandbox, such as the one that asks.
func (s Sandboxes) LeaseHeld(id string) bool {
	if CheckSandboxID(id) != nil {
		return false
	}
	held, _ := leaseHeld(s.LeasePath(id))
	return held
}

// leaseHeld reports whether there is a lease, and whether somebody holds it.
func leaseHeld(path string) (held, exists bool) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return false, false
	}
	if err != nil {
		return true, true // it is there and we cannot look: see Alive
	}
	defer unix.Close(fd)
	return unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB) != nil, true
}
