package ownmounts

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

// The program's first self is where everybody else is.
func TestMountsOfTheTestsAreSeenByNobodyElse(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("mounts need root: run the tests as root")
	}
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(dir, 0) }()
	outside, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", os.Getppid()))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(outside, []byte(dir)) {
		t.Errorf("others see %s", dir)
	}
}
