// Package netns runs code in another network namespace: what makes sockets, opens devices or starts processes there.
// Whose namespace it is, and what is done in it, is the business of its callers.
package netns

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Do calls f with the calling goroutine's thread in the namespace that the file is open on. What f makes belongs
// there; goroutines that it starts do not run there.
func Do(namespace *os.File, f func() error) error {
	return elsewhere(func() error { return unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET) }, f)
}

// New makes a network namespace. It lives as long as the file is open, or something is in it.
func New() (file *os.File, err error) {
	err = elsewhere(
		func() error { return unix.Unshare(unix.CLONE_NEWNET) },
		func() (err error) { file, err = os.Open(current); return err })
	return file, err
}

const current = "/proc/thread-self/ns/net"

// elsewhere takes the thread to another namespace for f, and back. A thread that does not get back is used for
// nothing else: it ends with the goroutine.
func elsewhere(enter, f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open(current)
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	if err := enter(); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter the network namespace: %w", err)
	}
	err = f()
	if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	return err
}
