package pool

import (
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

const testNode = "node-1"

// open opens the pool in dir and closes it with the test, if the test has not.
func open(t *testing.T, dir string) *Pool {
	t.Helper()
	p, err := Open(t.Context(), dir, Options{Node: testNode, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closePool(t, p) })
	return p
}

func closePool(t *testing.T, p *Pool) {
	t.Helper()
	if p.root == nil {
		return
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	p.root = nil
}

func create(t *testing.T, p *Pool, name string, sizeBytes int64) Volume {
	t.Helper()
	v, err := p.Create(t.Context(), ext4Spec(name, sizeBytes))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func ext4Spec(name string, sizeBytes int64) Spec {
	return Spec{Name: name, FSType: "ext4", Size: SizeRange{RequiredBytes: sizeBytes}}
}

// writeImage puts data at the start of a volume, as a guest would.
func writeImage(t *testing.T, v Volume, data string) {
	t.Helper()
	f, err := os.OpenFile(v.ImagePath, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(data); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil { // delayed allocation would hide it from a look at the blocks
		t.Fatal(err)
	}
}

func readImage(t *testing.T, v Volume, length int) string {
	t.Helper()
	f, err := os.Open(v.ImagePath)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, length)
	if _, err := f.ReadAt(data, 0); err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// entries are the names in the pool's folder, without the lock.
func entries(t *testing.T, dir string) []string {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range all {
		if e.Name() != lockName && e.Name() != "lost+found" {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func exists(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return err == nil
}

// mountSmall mounts a file system of that size and returns a folder in it. It needs root.
func mountSmall(t *testing.T, fsType string, sizeBytes int64) string {
	t.Helper()
	mountPoint := t.TempDir()
	args := []string{"-t", "tmpfs", "-o", "mode=0700,size=" + itoa(sizeBytes), "tmpfs", mountPoint}
	if fsType != "tmpfs" {
		image := filepath.Join(t.TempDir(), "fs.img")
		write(t, image, "")
		if err := os.Truncate(image, sizeBytes); err != nil {
			t.Fatal(err)
		}
		command(t, "mkfs."+fsType, "-q", image)
		args = []string{"-o", "loop", image, mountPoint}
	}
	command(t, "mount", args...)
	t.Cleanup(func() { command(t, "umount", mountPoint) })
	if err := os.Chmod(mountPoint, fs.FileMode(0o700)); err != nil {
		t.Fatal(err)
	}
	return mountPoint
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}
