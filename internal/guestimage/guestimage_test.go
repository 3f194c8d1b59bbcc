package guestimage

import (
	"context"
	"debug/elf"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestBuildRefusesAnAgentThatCannotBeInit(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, data, 0o755); err != nil {
			t.Fatal(err)
		}
		return p
	}
	for name, agent := range map[string]string{
		"none named":      "",
		"missing":         filepath.Join(dir, "gone"),
		"a script":        write("script", []byte("#!/bin/sh\n")),
		"needs a loader":  write("dynamic", fakeELF{interp: "/lib64/ld-linux-x86-64.so.2"}.bytes()),
		"needs a library": write("library", fakeELF{needed: []string{"libc.so.6"}}.bytes()),
		"other machine":   write("arm", fakeELF{machine: elf.EM_AARCH64}.bytes()),
		"object file":     write("object", fakeELF{typ: elf.ET_REL}.bytes()),
	} {
		if _, err := Build(t.Context(), Options{AgentPath: agent, Output: dir, CacheDir: dir}); !errors.Is(err, ErrAgent) {
			t.Errorf("%s: error %v, want ErrAgent", name, err)
		}
	}
	if err := checkAgent(write("good", fakeELF{}.bytes())); err != nil {
		t.Errorf("a static program: %v", err)
	}
}

func TestBuildNamesAPackageThatIsNot(t *testing.T) {
	agent := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(agent, fakeELF{}.bytes(), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := Build(t.Context(), Options{AgentPath: agent, KernelPackage: "linux-image-of-nobody", Bare: true, Output: t.TempDir(), CacheDir: t.TempDir()})
	if !errors.Is(err, ErrNoPackage) {
		t.Errorf("error %v, want ErrNoPackage", err)
	}
}

func TestOpenRefusesAnIncompleteImage(t *testing.T) {
	const manifest = `{"version":"1","kernel":"6.1","kernel_bytes":3,"initrd_bytes":3}`
	for name, files := range map[string]map[string]string{
		"empty folder":  {},
		"no manifest":   {kernelFile: "abc", initrdFile: "abc"},
		"no kernel":     {initrdFile: "abc", manifestFile: manifest},
		"initrd cut":    {kernelFile: "abc", initrdFile: "ab", manifestFile: manifest},
		"manifest torn": {kernelFile: "abc", initrdFile: "abc", manifestFile: manifest[:20]},
		"no sizes":      {kernelFile: "abc", initrdFile: "abc", manifestFile: "{}"},
	} {
		dir := t.TempDir()
		for f, content := range files {
			if err := os.WriteFile(filepath.Join(dir, f), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if img, err := Open(dir); !errors.Is(err, ErrNotBuilt) {
			t.Errorf("%s: %+v, error %v; want ErrNotBuilt", name, img, err)
		}
	}
}

func TestWriteFileLeavesTheOldFileWhenItFails(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "initrd")
	if err := os.WriteFile(file, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	err := writeFile(file, func(w io.Writer) error {
		if _, err := w.Write([]byte("half")); err != nil {
			t.Fatal(err)
		}
		return broken
	})
	if !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if data, _ := os.ReadFile(file); string(data) != "old" || len(entries) != 1 {
		t.Errorf("%q, %v", data, entries)
	}
}

func TestASecondBuildWaitsAndGivesUpWithItsContext(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lockDir(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := lockDir(ctx, dir); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want deadline exceeded", err)
	}
	unlock()
	if unlock, err = lockDir(t.Context(), dir); err != nil {
		t.Errorf("after the first ended: %v", err)
	} else {
		unlock()
	}
}
