// Package ownmounts gives a test program a mount namespace of its own.
//
// A mount that a test makes in the host's namespace is copied into every namespace that somebody else, a shim's test or
// a build in a container, happens to make meanwhile. There it lives on after the test has unmounted it, and keeps the
// file system and its device busy for as long as that namespace lives. From a namespace that nobody else is in nothing
// is copied.
package ownmounts

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// mark is set in the environment of the program's second self, which is in the namespace.
const mark = "KATADIRECT_TEST_OWN_MOUNTS"

// Main is for TestMain, and returns the code to exit with. Without root it changes nothing: who needs mounts says so.
func Main(m *testing.M) int {
	if os.Geteuid() != 0 {
		return m.Run()
	}
	if os.Getenv(mark) == "" {
		return again()
	}
	// Nothing comes in from the host either: a namespace begins as its maker's peer wherever that shares its mounts.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		fmt.Fprintln(os.Stderr, "make the mounts the tests' own:", err)
		return 1
	}
	return m.Run()
}

// again runs the program once more, inside.
func again() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), mark+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var ended *exec.ExitError
	switch {
	case errors.As(err, &ended):
		return max(1, ended.ExitCode()) // -1 is a signal
	case err != nil:
		fmt.Fprintln(os.Stderr, "run the tests in a mount namespace of their own:", err)
		return 1
	}
	return 0
}
