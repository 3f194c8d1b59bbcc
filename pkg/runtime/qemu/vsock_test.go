package qemu

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAHostWithoutVsockIsToldFromOneThatFails(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := claimVsock(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no device gave %v, want ErrNotExist", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := claimVsock(file); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("what is no vsock gave %v, want ENOTTY", err)
	}
	if _, err := os.Stat(vhostVsock); err != nil {
		return // the rest needs the device
	}
	first, a, err := claimVsock(vhostVsock)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	second, b, err := claimVsock(vhostVsock)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if a == b || a < firstCID || b < firstCID {
		t.Errorf("context ids %d and %d", a, b)
	}
}
