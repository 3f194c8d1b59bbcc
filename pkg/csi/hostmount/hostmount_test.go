package hostmount

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/capabilities"
	"github.com/katadirect/katadirect/internal/condition"
	"github.com/katadirect/katadirect/internal/filesystem"
	"github.com/katadirect/katadirect/pkg/csi/loop"
)

const mib = int64(1) << 20

// bench is one image, and what it needs to be mounted.
type bench struct {
	t       *testing.T
	mounts  *Mounts
	loops   *loop.Devices
	volume  Volume
	staging string
}

func newBench(t *testing.T, fsType string, sizeBytes int64) *bench {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("loop devices and mounts need root: run the tests as root")
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	pool := filepath.Join(dir, "pool")
	must(t, os.MkdirAll(filepath.Join(pool, "volume"), 0o700))
	must(t, os.MkdirAll(filepath.Join(dir, "staging"), 0o750))
	b := &bench{t: t, loops: loop.New(pool, nil), staging: filepath.Join(dir, "staging")}
	b.mounts = New(b.loops, nil)
	b.volume = Volume{Image: filepath.Join(pool, "volume", "disk.img"), FSType: fsType, Format: true}
	f, err := os.Create(b.volume.Image)
	must(t, err)
	must(t, f.Truncate(sizeBytes))
	must(t, f.Close())
	t.Cleanup(b.clean)
	return b
}

// clean leaves nothing behind, however the test ended.
func (b *bench) clean() {
	ctx := context.Background()
	points, _ := b.mounts.At(ctx, b.volume.Image)
	for _, p := range points {
		_ = unix.Unmount(p.Path, unix.MNT_DETACH)
	}
	if err := b.loops.Detach(ctx, b.volume.Image); err != nil {
		b.t.Error(err)
	}
}

func (b *bench) mount() error { return b.mounts.Mount(b.t.Context(), b.volume, b.staging) }

func (b *bench) release() error { return b.mounts.Release(b.t.Context(), b.volume.Image, b.staging) }

// folder makes a folder to bind to.
func (b *bench) folder(name string) string {
	b.t.Helper()
	path := filepath.Join(filepath.Dir(b.staging), name)
	must(b.t, os.MkdirAll(path, 0o750))
	return path
}

func (b *bench) paths() []string {
	b.t.Helper()
	points, err := b.mounts.At(b.t.Context(), b.volume.Image)
	must(b.t, err)
	var paths []string
	for _, p := range points {
		paths = append(paths, p.Path)
	}
	return paths
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o600))
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return string(data)
}

// sizes are the least that the mkfs programs make.
var sizes = map[string]int64{"ext4": 64 * mib, "xfs": 320 * mib, "btrfs": 256 * mib}

func TestAVolumeIsMountedForSeveralPodsAndGoesWithTheLast(t *testing.T) {
	for fsType, sizeBytes := range sizes {
		t.Run(fsType, func(t *testing.T) {
			b := newBench(t, fsType, sizeBytes)
			must(t, b.mount())
			must(t, b.mount()) // again is nothing new
			one, two := b.folder("one"), b.folder("two")
			must(t, b.mounts.Bind(b.staging, one, false))
			must(t, b.mounts.Bind(b.staging, two, true))
			if got := b.paths(); len(got) != 3 {
				t.Fatalf("mounted at %v", got)
			}
			write(t, filepath.Join(one, "file"), "text")
			if got := read(t, filepath.Join(two, "file")); got != "text" {
				t.Errorf("the other pod reads %q", got)
			}
			if err := os.WriteFile(filepath.Join(two, "file"), nil, 0o600); !errors.Is(err, unix.EROFS) {
				t.Errorf("the pod that reads only can write: %v", err)
			}
			if err := b.release(); !errors.Is(err, ErrMounted) {
				t.Errorf("released while pods have it: %v", err)
			}
			must(t, b.mounts.Unbind(t.Context(), b.volume.Image, one))
			must(t, b.mounts.Unbind(t.Context(), b.volume.Image, one))
			must(t, b.mounts.Unbind(t.Context(), b.volume.Image, two))
			must(t, b.release())
			must(t, b.release())
			if _, err := b.loops.Find(t.Context(), b.volume.Image); !errors.Is(err, loop.ErrNoDevice) {
				t.Errorf("the loop device is still there: %v", err)
			}
			must(t, b.mount())
			if got := read(t, filepath.Join(b.staging, "file")); got != "text" {
				t.Errorf("after it was mounted again: %q", got)
			}
		})
	}
}

func TestTheDriverFindsItsMountsAgain(t *testing.T) {
	b := newBench(t, "ext4", sizes["ext4"])
	must(t, b.mount())
	pod := b.folder("pod")
	must(t, b.mounts.Bind(b.staging, pod, false))
	// Another process would have nothing but the kernel's word either.
	b.loops = loop.New(filepath.Dir(filepath.Dir(b.volume.Image)), nil)
	b.mounts = New(b.loops, nil)
	if got := b.paths(); len(got) != 2 {
		t.Fatalf("found %v", got)
	}
	must(t, b.mount())
	if got := b.paths(); len(got) != 2 {
		t.Fatalf("mounted once more: %v", got)
	}
	must(t, b.mounts.Unbind(t.Context(), b.volume.Image, pod))
	must(t, b.release())
}

func TestOnlyWhatIsBlankIsFormatted(t *testing.T) {
	for name, test := range map[string]struct {
		change func(v *Volume)
		offset int64
		data   string
		want   error
	}{
		"blank, and may not":           {func(v *Volume) { v.Format = false }, 0, "", filesystem.ErrBlank},
		"blank, and read-only":         {func(v *Volume) { v.ReadOnly = true }, 0, "", filesystem.ErrBlank},
		"another file system":          {func(*Volume) {}, 0, "XFSB", filesystem.ErrOccupied},
		"a partition table at the end": {func(*Volume) {}, sizes["ext4"] - 512, "EFI PART", unix.EINVAL},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, "ext4", sizes["ext4"])
			test.change(&b.volume)
			f, err := os.OpenFile(b.volume.Image, os.O_WRONLY, 0)
			must(t, err)
			_, err = f.WriteAt([]byte(test.data), test.offset)
			must(t, errors.Join(err, f.Close()))
			before := read(t, b.volume.Image)

			err = b.mount()
			if err == nil || test.want != unix.EINVAL && !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if read(t, b.volume.Image) != before {
				t.Error("the image has changed")
			}
			if _, err := b.loops.Find(t.Context(), b.volume.Image); !errors.Is(err, loop.ErrNoDevice) {
				t.Errorf("a loop device is left: %v", err)
			}
		})
	}
}

// TestASuperblockThatBlkidDoesNotKnowIsNotBlank is why mount-utils does not format here: blkid sees nothing where the
// checksum is wrong, and FormatAndMount would make a new file system over this one.
func TestASuperblockThatBlkidDoesNotKnowIsNotBlank(t *testing.T) {
	b := newBench(t, "ext4", sizes["ext4"])
	must(t, b.mount())
	write(t, filepath.Join(b.staging, "file"), "precious")
	must(t, b.release())
	f, err := os.OpenFile(b.volume.Image, os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt([]byte("x"), 1024+0x78) // the volume's name, which the checksum covers
	must(t, errors.Join(err, f.Close()))
	if out, err := exec.Command("blkid", "-p", b.volume.Image).CombinedOutput(); err == nil {
		t.Logf("this blkid sees through it: %s", out)
	}
	before := read(t, b.volume.Image)
	if err := b.mount(); err != nil {
		if read(t, b.volume.Image) != before {
			t.Error("the image has changed")
		}
		return
	}
	if got := read(t, filepath.Join(b.staging, "file")); got != "precious" {
		t.Errorf("the file holds %q", got)
	}
}

func TestErrorsInAMountedFileSystemAreFound(t *testing.T) {
	b := newBench(t, "ext4", sizes["ext4"])
	must(t, b.mount())
	mounted, err := filesystem.MountAt(b.staging)
	must(t, err)
	disk := filepath.Base(mounted.Source)
	must(t, os.WriteFile(filepath.Join("/sys/fs/ext4", disk, "trigger_fs_error"), []byte("a test"), 0o200))
	var problems []condition.Problem
	for deadline := time.Now().Add(20 * time.Second); len(problems) == 0 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		_, problems, err = b.mounts.Look(t.Context(), mounted, disk, true) // the kernel counts a moment later
		must(t, err)
	}
	if len(problems) != 1 || problems[0].Reason != condition.FileSystemErrors {
		t.Errorf("found %v", problems)
	}
	must(t, b.release())
}

func TestAFileSystemGrowsMountedAndAtItsNextMount(t *testing.T) {
	for fsType, sizeBytes := range sizes {
		t.Run(fsType, func(t *testing.T) {
			b := newBench(t, fsType, sizeBytes)
			must(t, b.mount())
			total := func() uint64 {
				mounted, err := filesystem.MountAt(b.staging)
				must(t, err)
				usage, problems, err := b.mounts.Look(t.Context(), mounted, filepath.Base(mounted.Source), true)
				must(t, err)
				if len(problems) > 0 {
					t.Error(problems)
				}
				return usage.Total
			}
			first := total()
			must(t, os.Truncate(b.volume.Image, 2*sizeBytes))
			err := b.mounts.Grow(t.Context(), b.volume.Image, b.staging, fsType)
			if fsType == "ext4" && !maySetResources(t) {
				// What cannot be done here must be said, and the volume stay of use.
				if !errors.Is(err, ErrCannotGrow) || !strings.Contains(err.Error(), "SYS_RESOURCE") {
					t.Errorf("got %v", err)
				}
				must(t, b.release())
				must(t, b.mount())
				return
			}
			must(t, err)
			must(t, b.mounts.Grow(t.Context(), b.volume.Image, b.staging, fsType))
			second := total()
			if second < first+uint64(sizeBytes)*8/10 {
				t.Errorf("%d bytes became %d", first, second)
			}
			must(t, b.release())
			must(t, os.Truncate(b.volume.Image, 3*sizeBytes))
			must(t, b.mount())
			if third := total(); third < second+uint64(sizeBytes)*8/10 {
				t.Errorf("%d bytes became %d at the next mount", second, third)
			}
		})
	}
}

// maySetResources reports whether this process has CAP_SYS_RESOURCE, without which the kernel grows no ext4 in use.
func maySetResources(t *testing.T) bool {
	t.Helper()
	may, err := capabilities.Has(unix.CAP_SYS_RESOURCE)
	must(t, err)
	return may
}

func TestReadOnlyVolumesStayAsTheyAre(t *testing.T) {
	b := newBench(t, "ext4", sizes["ext4"])
	must(t, b.mount())
	must(t, b.release())
	before := read(t, b.volume.Image)
	b.volume.ReadOnly = true
	must(t, b.mount())
	if err := os.WriteFile(filepath.Join(b.staging, "file"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("it can be written to: %v", err)
	}
	must(t, b.release())
	if read(t, b.volume.Image) != before {
		t.Error("the image has changed")
	}
}

func TestAMountThatFailsLeavesNothing(t *testing.T) {
	b := newBench(t, "ext4", sizes["ext4"])
	must(t, b.mount())
	must(t, b.release())
	b.volume.Options = []string{"stripe=x"}
	if err := b.mount(); err == nil || !strings.Contains(err.Error(), b.volume.Image) {
		t.Errorf("got %v", err)
	}
	if _, err := b.loops.Find(t.Context(), b.volume.Image); !errors.Is(err, loop.ErrNoDevice) {
		t.Errorf("a loop device is left: %v", err)
	}
}

func TestWhatMountSaysIsARefusalOnlyIfTheKernelWillNeverHaveIt(t *testing.T) {
	for said, want := range map[string]error{
		"mount: /m: wrong fs type, bad option, bad superblock on /dev/loop0, missing codepage or helper program, or other error.": ErrRefused,
		"mount: /m: mount(2) system call failed: File exists.":                                                                    ErrRefused, // a btrfs beside its clone
		"mount: /m: unknown filesystem type 'btrfs'.":                                                                             ErrRefused,
		"mount: /m: mount(2) system call failed: Structure needs cleaning.":                                                       ErrRefused,
		"mount: /m: fsconfig() failed: xfs: Unknown parameter 'x'.":                                                               ErrRefused,
		`exec: "mount": executable file not found in $PATH`:                                                                       filesystem.ErrNoProgram,
		"mount: /m: can't read superblock on /dev/loop0.":                                                                         nil,
		"mount: /m: fsconfig() failed: Input/output error.":                                                                       nil,
		"mount: /m: permission denied.":                                                                                           nil,
	} {
		err := explain(errors.New("mount failed: exit status 32\nOutput: " + said))
		if !strings.Contains(err.Error(), said) {
			t.Errorf("%q became %v", said, err)
		}
		for _, kind := range []error{ErrRefused, filesystem.ErrNoProgram} {
			if errors.Is(err, kind) != (kind == want) {
				t.Errorf("%q became %v, want the kind %v", said, err, want)
			}
		}
	}
}
