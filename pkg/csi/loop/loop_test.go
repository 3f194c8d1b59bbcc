package loop

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const mib = 1 << 20

// place is a pool's folder with images in it.
type place struct {
	t   *testing.T
	dir string
	log *bytes.Buffer
	*Devices
}

// newPlace makes a pool's folder below dir. Whatever devices a test leaves over its images are detached.
func newPlace(t *testing.T, dir string) *place {
	t.Helper()
	p := &place{t: t, dir: dir, log: &bytes.Buffer{}}
	p.restart()
	t.Cleanup(func() {
		if err := p.Sweep(context.Background(), func(string) bool { return false }); err != nil {
			t.Error(err)
		}
	})
	return p
}

// restart forgets everything, as a driver does that starts anew.
func (p *place) restart() { p.Devices = New(p.dir, slog.New(slog.NewTextHandler(p.log, nil))) }

func (p *place) image(name string, sizeBytes int64) string {
	p.t.Helper()
	path := filepath.Join(p.dir, name, "disk.img")
	must(p.t, os.MkdirAll(filepath.Dir(path), 0o700))
	file, err := os.Create(path)
	must(p.t, err)
	must(p.t, errors.Join(file.Truncate(sizeBytes), file.Close()))
	return path
}

func (p *place) attach(image string) Device {
	p.t.Helper()
	device, err := p.Attach(p.t.Context(), image, false)
	must(p.t, err)
	return device
}

// gone checks that the device has no file of ours any more. Somebody else may have the number by now, and whoever is just
// looking through all devices keeps one that nobody uses until he has looked.
func (p *place) gone(device Device) {
	p.t.Helper()
	for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		file, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(device.Path), "loop/backing_file"))
		if err != nil || !strings.HasPrefix(string(file), p.dir+"/") {
			return
		}
		if time.Since(begun) > 10*time.Second {
			p.t.Errorf("%s is still there, with %s", device.Path, file)
			return
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, path string, flags int) *os.File {
	t.Helper()
	file, err := os.OpenFile(path, flags, 0)
	must(t, err)
	t.Cleanup(func() { file.Close() })
	return file
}

func sizeOf(t *testing.T, path string) int64 {
	t.Helper()
	file, err := os.Open(path)
	must(t, err)
	size, err := file.Seek(0, io.SeekEnd)
	must(t, errors.Join(err, file.Close()))
	return size
}

func write(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteAt(make([]byte, 512), 0)
	return errors.Join(err, file.Sync(), file.Close())
}

func TestADeviceIsItsImageAndIsFoundAgain(t *testing.T) {
	p := newPlace(t, t.TempDir())
	image := p.image("kd-1", mib)
	if _, err := p.Find(t.Context(), image); !errors.Is(err, ErrNoDevice) {
		t.Errorf("before it is attached: %v", err)
	}
	device := p.attach(image)
	if !device.DirectIO || device.ReadOnly || sizeOf(t, device.Path) != mib {
		t.Errorf("the device is %+v", device)
	}
	var stat unix.Stat_t
	must(t, unix.Stat(device.Path, &stat))
	node := open(t, device.Path, os.O_RDWR)
	if sector, err := unix.IoctlGetInt(int(node.Fd()), unix.BLKSSZGET); err != nil || sector != 512 || stat.Rdev != device.Number {
		t.Errorf("sectors of %d bytes, %v; number %x, not %x", sector, err, stat.Rdev, device.Number)
	}
	_, err := node.WriteAt([]byte("content"), 4096)
	must(t, errors.Join(err, node.Sync(), node.Close()))
	data := make([]byte, 7)
	if _, err := open(t, image, os.O_RDONLY).ReadAt(data, 4096); err != nil || string(data) != "content" {
		t.Errorf("the image holds %q, %v", data, err)
	}
	for what, again := range map[string]func() (Device, error){
		"attached again": func() (Device, error) { return p.Attach(t.Context(), image, false) },
		"found":          func() (Device, error) { return p.Find(t.Context(), image) },
		"found after a restart": func() (Device, error) {
			p.restart()
			return p.Find(t.Context(), image)
		},
	} {
		if got, err := again(); err != nil || got != device {
			t.Errorf("%s it is %+v, %v", what, got, err)
		}
	}
	must(t, p.Detach(t.Context(), image))
	p.gone(device)
	must(t, p.Detach(t.Context(), image))
	must(t, p.Detach(t.Context(), filepath.Join(p.dir, "nothing", "disk.img")))
}

// A name proves nothing: what counts is which file the kernel has.
func TestADeviceOverAFileThatWasReplacedIsNotTheImages(t *testing.T) {
	p := newPlace(t, t.TempDir())
	image := p.image("kd-1", mib)
	old := p.attach(image)
	must(t, os.Rename(image, image+".old"))
	p.image("kd-1", 2*mib)
	if _, err := p.Find(t.Context(), image); !errors.Is(err, ErrNoDevice) {
		t.Errorf("found: %v", err)
	}
	if device := p.attach(image); device == old || sizeOf(t, device.Path) != 2*mib {
		t.Errorf("attached: %+v", device)
	}
	if found, err := p.Find(t.Context(), image+".old"); err != nil || found != old {
		t.Errorf("under its other name the first is %+v, %v", found, err)
	}
}

func TestADeviceGrowsWithItsImage(t *testing.T) {
	p := newPlace(t, t.TempDir())
	image := p.image("kd-1", mib)
	must(t, p.Grow(t.Context(), image)) // without a device there is nothing to do
	device := p.attach(image)
	must(t, os.Truncate(image, 2*mib))
	if size := sizeOf(t, device.Path); size != mib {
		t.Errorf("it has %d bytes already", size)
	}
	must(t, p.Grow(t.Context(), image))
	if size := sizeOf(t, device.Path); size != 2*mib {
		t.Errorf("grown it has %d bytes", size)
	}
	// A driver that was killed before it could say so.
	must(t, os.Truncate(image, 3*mib))
	p.restart()
	if again := p.attach(image); again != device || sizeOf(t, device.Path) != 3*mib {
		t.Errorf("attached again %+v has %d bytes", again, sizeOf(t, device.Path))
	}
}

func TestReadOnlyIsTheKernelsWord(t *testing.T) {
	p := newPlace(t, t.TempDir())
	image := p.image("kd-1", mib)
	reader, err := p.Attach(t.Context(), image, true)
	must(t, err)
	if !reader.ReadOnly {
		t.Errorf("%+v", reader)
	}
	refused := func(path string) {
		t.Helper()
		if err := write(path); !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) {
			t.Errorf("%s is written to: %v", path, err)
		}
	}
	refused(reader.Path)
	// Nobody has it, so it can become a writer's.
	writer := p.attach(image)
	if writer.ReadOnly {
		t.Errorf("%+v", writer)
	}
	must(t, p.SetReadOnly(t.Context(), image, true))
	refused(writer.Path)
	must(t, p.SetReadOnly(t.Context(), image, false))
	must(t, write(writer.Path))

	holder := open(t, writer.Path, os.O_RDONLY|unix.O_EXCL)
	if _, err := p.Attach(t.Context(), image, true); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "read-only=false") {
		t.Errorf("in use, attached read-only: %v", err)
	}
	must(t, holder.Close())
}

func TestAReadOnlyDeviceIsNotLeftReadOnlyToWhoGetsItsNumberNext(t *testing.T) {
	p := newPlace(t, t.TempDir())
	image := p.image("kd-1", mib)
	device := p.attach(image)
	must(t, p.SetReadOnly(t.Context(), image, true))
	must(t, p.Detach(t.Context(), image))
	number, err := strconv.Atoi(strings.TrimPrefix(device.Path, "/dev/loop"))
	must(t, err)
	for range 100 {
		if b, err := openBound(number); err == nil { // somebody else's by now, who may want it so
			b.close()
			time.Sleep(10 * time.Millisecond)
			continue
		}
		node, err := os.Open(device.Path)
		must(t, err)
		defer node.Close()
		if readOnly, err := unix.IoctlGetInt(int(node.Fd()), unix.BLKROGET); err != nil || readOnly != 0 {
			t.Errorf("%s is left read-only=%d, %v", device.Path, readOnly, err)
		}
		return
	}
	t.Errorf("%s was somebody else's all the time", device.Path)
}

func TestADeviceInUseIsNotDetached(t *testing.T) {
	p := newPlace(t, t.TempDir())
	image := p.image("kd-1", mib)
	device := p.attach(image)
	// As a mount or a machine has it.
	holder := open(t, device.Path, os.O_RDWR|unix.O_EXCL)
	if err := p.Detach(t.Context(), image); !errors.Is(err, ErrInUse) {
		t.Errorf("held: %v", err)
	}
	must(t, holder.Close())
	if found, err := p.Find(t.Context(), image); err != nil || found != device {
		t.Errorf("afterwards: %+v, %v", found, err)
	}
	// As anybody may have it open.
	looker := open(t, device.Path, os.O_RDONLY)
	if err := p.Detach(t.Context(), image); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), device.Path) {
		t.Errorf("open: %v", err)
	}
	if again := p.attach(image); again != device {
		t.Errorf("attached again before it went: %+v", again)
	}
	must(t, looker.Close())
	if found, err := p.Find(t.Context(), image); err != nil || found != device {
		t.Errorf("attached again it went all the same: %+v, %v", found, err)
	}
	looker = open(t, device.Path, os.O_RDONLY)
	if err := p.Detach(t.Context(), image); !errors.Is(err, ErrInUse) {
		t.Errorf("open: %v", err)
	}
	must(t, looker.Close())
	p.gone(device)
}

func TestSomebodyElsesDeviceIsLeftAlone(t *testing.T) {
	p := newPlace(t, t.TempDir())
	image := p.image("kd-1", mib)
	out, err := exec.Command("losetup", "--find", "--show", image).Output()
	must(t, err)
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() { _ = exec.Command("losetup", "--detach", device).Run() })
	if _, err := p.Attach(t.Context(), image, false); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), device) {
		t.Errorf("attach: %v", err)
	}
	must(t, p.Detach(t.Context(), image))
	must(t, p.Sweep(t.Context(), func(string) bool { return false }))
	if size := sizeOf(t, device); size != mib {
		t.Errorf("it has %d bytes now", size)
	}
}

func TestADeviceOverWhatIsNoImageIsRefused(t *testing.T) {
	p := newPlace(t, t.TempDir())
	image := p.image("kd-1", mib)
	must(t, os.Symlink(image, image+".link"))
	must(t, unix.Mkfifo(image+".fifo", 0o600))
	for _, path := range []string{image + ".link", image + ".fifo", image + ".missing", filepath.Dir(image)} {
		if device, err := p.Attach(t.Context(), path, false); err == nil {
			t.Errorf("%s became %+v", path, device)
		}
	}
}

func TestWithoutDirectIOTheReasonIsLogged(t *testing.T) {
	dir := t.TempDir()
	must(t, unix.Mount("ramfs", dir, "ramfs", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(dir, 0)) })
	p := newPlace(t, dir)
	device := p.attach(p.image("kd-1", mib))
	if device.DirectIO || !strings.Contains(p.log.String(), "direct I/O in sectors of 512") {
		t.Errorf("%+v; the log says %q", device, p.log)
	}
}

func TestSweepTakesWhatNobodyNeeds(t *testing.T) {
	p, other := newPlace(t, t.TempDir()), newPlace(t, t.TempDir())
	needed, left := p.image("kd-needed", mib), p.image("kd-left", mib)
	deleted, held := p.image("kd-deleted", mib), p.image("kd-held", mib)
	of := map[string]Device{}
	for _, image := range []string{needed, left, deleted, held} {
		of[image] = p.attach(image)
	}
	others := other.attach(other.image("kd-left", mib))
	must(t, os.RemoveAll(filepath.Dir(deleted)))
	holder := open(t, of[held].Path, os.O_RDWR|unix.O_EXCL)

	p.restart()
	must(t, p.Sweep(t.Context(), func(name string) bool { return name == "kd-needed" }))
	p.gone(of[left])
	p.gone(of[deleted])
	for _, image := range []string{needed, held} {
		if device, err := p.Find(t.Context(), image); err != nil || device != of[image] {
			t.Errorf("%s: %+v, %v", image, device, err)
		}
	}
	if device, err := other.Find(t.Context(), filepath.Join(other.dir, "kd-left", "disk.img")); err != nil || device != others {
		t.Errorf("another pool's: %+v, %v", device, err)
	}
	if !strings.Contains(p.log.String(), "kd-held") {
		t.Errorf("the log does not say what is in use: %q", p.log)
	}
	must(t, holder.Close())
}

// attachIn makes this test program attach a device to the image, and be killed.
const attachIn = "KATADIRECT_TEST_ATTACH_IN"

func TestMain(m *testing.M) {
	if image := os.Getenv(attachIn); image != "" {
		if _, err := New(filepath.Dir(filepath.Dir(image)), nil).Attach(context.Background(), image, false); err != nil {
			os.Exit(1)
		}
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	}
	os.Exit(m.Run())
}

func TestADriverKilledAfterAttachingLeavesNothing(t *testing.T) {
	p := newPlace(t, t.TempDir())
	image := p.image("kd-1", mib)
	killed := exec.Command(os.Args[0])
	killed.Env = append(os.Environ(), attachIn+"="+image)
	if err := killed.Run(); killed.ProcessState.Exited() {
		t.Fatalf("it was not killed: %v", err)
	}
	device, err := p.Find(t.Context(), image)
	must(t, err)
	must(t, p.Sweep(t.Context(), func(string) bool { return false }))
	p.gone(device)
}
