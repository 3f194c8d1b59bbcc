package guestimage

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/u-root/u-root/pkg/cpio"
)

// buildInit compiles the test's init as the agent is compiled.
func buildInit(t *testing.T) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "init")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "./testdata/init")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build init: %v\n%s", err, msg)
	}
	return out
}

// buildImage builds into a fresh folder; the packages come from the user's
// own cache, so that a second run of the tests downloads nothing.
func buildImage(t *testing.T, o Options) Image {
	t.Helper()
	if o.Output == "" {
		o.Output = t.TempDir()
	}
	o.Progress = func(s string) { t.Log(s) }
	img, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func readImage(t *testing.T, img Image) map[string]cpio.Record {
	t.Helper()
	f, err := os.Open(img.Initrd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	recs, err := cpio.ReadAllRecords(cpio.Newc.Reader(f))
	if err != nil {
		t.Fatal(err)
	}
	byPath := map[string]cpio.Record{}
	for _, r := range recs {
		byPath[r.Name] = r
	}
	return byPath
}

func TestTwoBuildsAreEqualToTheByte(t *testing.T) {
	init := buildInit(t)
	a := buildImage(t, Options{AgentPath: init, Btrfs: true})
	b := buildImage(t, Options{AgentPath: init, Btrfs: true})
	for _, name := range []string{kernelFile, initrdFile, manifestFile} {
		one, err1 := os.ReadFile(filepath.Join(a.Dir, name))
		two, err2 := os.ReadFile(filepath.Join(b.Dir, name))
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(one, two) {
			t.Errorf("%s differs between two builds", name)
		}
	}
}

func TestEveryProgramInTheImageFindsItsLibrariesThere(t *testing.T) {
	img := buildImage(t, Options{AgentPath: buildInit(t), Btrfs: true, Debug: true})
	if len(img.Manifest.HostFiles) > 0 {
		t.Errorf("taken from the host, not from a package: %v", img.Manifest.HostFiles)
	}
	files := readImage(t, img)
	follow := func(p string) string { // one path through the image's links
		for range 8 {
			top, rest, _ := strings.Cut(strings.TrimPrefix(p, "/"), "/")
			if l, ok := files[top]; ok && rest != "" && l.Mode&cpio.S_IFMT == cpio.S_IFLNK {
				p = readAll(t, l) + "/" + rest
			}
			r, ok := files[strings.TrimPrefix(p, "/")]
			if !ok || r.Mode&cpio.S_IFMT != cpio.S_IFLNK {
				break
			}
			if target := readAll(t, r); path.IsAbs(target) {
				p = target
			} else {
				p = path.Join(path.Dir(p), target)
			}
		}
		return strings.TrimPrefix(p, "/")
	}
	checked := 0
	for name, rec := range files {
		f, err := elf.NewFile(rec)
		if err != nil || rec.Mode&cpio.S_IFMT != cpio.S_IFREG || f.Type == elf.ET_REL {
			continue
		}
		checked++
		libs, _ := f.ImportedLibraries()
		for _, lib := range libs {
			if _, ok := files[follow("/lib/x86_64-linux-gnu/"+lib)]; !ok {
				t.Errorf("/%s needs %s, which is not in the image", name, lib)
			}
		}
		for _, p := range f.Progs {
			if p.Type != elf.PT_INTERP {
				continue
			}
			buf := make([]byte, p.Filesz)
			if _, err := p.ReadAt(buf, 0); err != nil {
				t.Fatal(err)
			}
			if loader := strings.TrimRight(string(buf), "\x00"); files[follow(loader)].Name == "" {
				t.Errorf("/%s needs the loader %s, which is not in the image", name, loader)
			}
		}
	}
	if checked < 10 {
		t.Errorf("only %d programs and libraries in the image", checked)
	}
	for _, p := range []string{"/init", "/usr/bin/crun", "/sbin/mke2fs", "/sbin/mkfs.ext4", "/sbin/e2fsck", "/sbin/mkfs.xfs",
		"/sbin/xfs_repair", "/sbin/mkfs.btrfs", "/bin/busybox", "/etc/katadirect/modules.json", "/etc/katadirect/image.json"} {
		if _, ok := files[follow(p)]; !ok {
			t.Errorf("%s is not in the image", p)
		}
	}
}

func readAll(t *testing.T, r cpio.Record) string {
	t.Helper()
	b := make([]byte, r.FileSize)
	if _, err := r.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestANewAgentRewritesTheInitrdAndKeepsTheKernel(t *testing.T) {
	first := buildInit(t)
	img := buildImage(t, Options{AgentPath: first, Bare: true})
	kernel, err := os.Stat(img.Kernel)
	if err != nil {
		t.Fatal(err)
	}
	initrd, err := os.Stat(img.Initrd)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	second := filepath.Join(t.TempDir(), "init")
	if err := os.WriteFile(second, append(data, "changed"...), 0o755); err != nil {
		t.Fatal(err)
	}
	changed := buildImage(t, Options{AgentPath: second, Bare: true, Output: img.Dir})
	if changed.Manifest.Version == img.Manifest.Version || changed.Manifest.Agent == img.Manifest.Agent {
		t.Error("the manifest does not tell the images apart")
	}
	if now, _ := os.Stat(img.Kernel); !os.SameFile(kernel, now) {
		t.Error("the kernel was written again")
	}
	if now, _ := os.Stat(img.Initrd); os.SameFile(initrd, now) {
		t.Error("the initrd still holds the old agent")
	}
	again := buildImage(t, Options{AgentPath: second, Bare: true, Output: img.Dir})
	a, _ := os.Stat(changed.Initrd)
	if b, _ := os.Stat(again.Initrd); again.Manifest.Version != changed.Manifest.Version || a.ModTime() != b.ModTime() {
		t.Error("an unchanged image was written again")
	}
}

func TestInterruptedBuildIsNoImage(t *testing.T) {
	init := buildInit(t)
	ctx, cancel := context.WithCancel(t.Context())
	dir := t.TempDir()
	_, err := Build(ctx, Options{AgentPath: init, Bare: true, Output: dir, Progress: func(s string) {
		if strings.HasPrefix(s, "writing") {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Build returned %v, want canceled", err)
	}
	if _, err := Open(dir); !errors.Is(err, ErrNotBuilt) {
		t.Errorf("Open returned %v, want ErrNotBuilt", err)
	}
	if _, err := Build(t.Context(), Options{AgentPath: init, Bare: true, Output: dir}); err != nil {
		t.Errorf("the build after it: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, ".new-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestImageBootsLoadsItsModulesAndRunsItsTools(t *testing.T) {
	img := buildImage(t, Options{AgentPath: buildInit(t), Btrfs: true, Debug: true})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	start := time.Now()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
		"-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "512", "-smp", "1",
		"-kernel", img.Kernel, "-initrd", img.Initrd,
		"-append", "quiet panic=-1 tsc=reliable no_timer_check 8250.nr_uarts=0 mitigations=off nokaslr audit=0 random.trust_cpu=on cryptomgr.notests",
		"-device", "virtio-serial-pci", "-chardev", "stdio,id=con", "-device", "virtconsole,chardev=con")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("powered off after %.1f s; guest said:\n%s", time.Since(start).Seconds(), out)
	if want := "HELLO " + img.Manifest.Kernel; !strings.Contains(string(out), want) {
		t.Errorf("the guest did not say %q", want)
	}
	if strings.Contains(string(out), "FAILED") {
		t.Error("the guest could not load a module or run a tool")
	}
}
