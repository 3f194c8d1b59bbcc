package images

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestAProgramComesWithItsLibraries(t *testing.T) {
	files, err := hostProgram("/usr/bin/curl")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"usr/bin/curl", "usr/lib/x86_64-linux-gnu/libc.so.6", "lib64/ld-linux-x86-64.so.2"} {
		if len(files[name].Content) == 0 {
			t.Errorf("%s is missing", name)
		}
	}
	if _, err := hostProgram("/etc/hostname"); err == nil {
		t.Error("what is no program was taken for one")
	}
}

func TestTheShellImageHasItsToolsAndUsers(t *testing.T) {
	files, err := shellFiles()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "cat", "wget", "ip", "stat", "nslookup"} {
		target := files[filepath.Join("bin", name)].Link
		if _, ok := files[target[min(1, len(target)):]]; !ok {
			t.Errorf("%s leads to %q, which is not there", name, target)
		}
	}
	if files["tmp"].Mode != 0o1777 || len(files["etc/passwd"].Content) == 0 {
		t.Error("a folder for everybody or the users are missing")
	}
}

// The suite's programs take ten minutes to build: that its images are whole, the suite itself says (test/conformance).
func TestAvailableIsSmallWithoutTheSuite(t *testing.T) {
	dir := t.TempDir()
	if _, err := Available(dir); err == nil {
		t.Error("images without a pause program")
	}
	if err := os.WriteFile(filepath.Join(dir, "pause"), []byte("x"), 0o755); err != nil {
		t.Fatal(err)
	}
	all, err := Available(dir)
	if err != nil {
		t.Fatal(err)
	}
	if all["docker.io/library/busybox:1"] == nil || all[e2e+"agnhost:2.56"] != nil {
		t.Errorf("there are %d images", len(all))
	}
}

func TestEachSidecarsImageRunsItsProgram(t *testing.T) {
	dir := t.TempDir()
	if _, err := Sidecars(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("images without programs: %v", err)
	}
	for _, program := range sidecars {
		if err := os.WriteFile(filepath.Join(dir, program), []byte(program), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	all, err := Sidecars(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range SidecarNames() {
		config, err := all[name].ConfigFile()
		if err != nil || config.Config.Entrypoint[0] != "/"+sidecars[name] {
			t.Errorf("%s runs %v (%v)", name, config.Config.Entrypoint, err)
		}
	}
}
