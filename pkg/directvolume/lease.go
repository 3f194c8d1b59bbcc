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

// leasePatience is how long AcquireLease asks again for a lease that is held. A descriptor that was closed lives on for
// an instant in whatever child its process was just forking, until that child executes its program; only somebody who
// still holds the lease after this is taken for its holder. Lookers take nothing and need no patience.
const leasePatience = 200 * time.Millisecond

// AcquireLease makes and locks the lease of a sandbox. The lock belongs to the open file description (F_OFD_SETLK):
// whoever inherits the descriptor (pass it to the hypervisor as an extra file) keeps it too, and the kernel drops it
// when the last of them is gone, however they ended. So it is locked exactly while the shim or the machine lives.
// Closing the file gives up this process's share. ErrLeaseHeld means that the sandbox's shim or machine already lives.
func (s Sandboxes) AcquireLease(id string) (*os.File, error) {
	if err := CheckSandboxID(id); err != nil {
		return nil, err
	}
	path := s.LeasePath(id)
	deadline := time.Now().Add(leasePatience)
	for {
		lease, err := tryLease(path)
		if err == nil {
			return lease, nil
		}
		if !errors.Is(err, ErrLeaseHeld) && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("acquire the lease of sandbox %s: %w", id, err)
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%w: %s", err, path)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// AcquireLease is Sandboxes.AcquireLease on the real host.
func AcquireLease(id string) (*os.File, error) { return Sandboxes{}.AcquireLease(id) }

// tryLease returns ErrLeaseHeld when somebody holds the lease, and fs.ErrNotExist when somebody removed it, or its
// folder, between two of its steps.
func tryLease(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	lease, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lockLease(lease); err != nil {
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

// lockLease locks the whole file for its open file description, or says ErrLeaseHeld.
func lockLease(lease *os.File) error {
	err := unix.FcntlFlock(lease.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) { // either, says fcntl(2)
		return ErrLeaseHeld
	}
	return err
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

// leaseHeld reports whether there is a lease, and whether somebody holds it. It only asks, and takes no lock: whoever
// acquires the lease meanwhile never finds it held by somebody who was looking.
func leaseHeld(path string) (held, exists bool) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return false, false
	}
	if err != nil {
		return true, true // it is there and we cannot look: see Alive
	}
	defer unix.Close(fd)
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_GETLK, &lock); err != nil {
		return true, true
	}
	return lock.Type != unix.F_UNLCK, true
}
