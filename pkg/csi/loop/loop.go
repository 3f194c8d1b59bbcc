// Package loop gives image files block devices: the kernel's loop devices, with direct I/O where the file system can.
//
// A loop device outlives the process that made it, so the kernel is the only word on which there are: a device is
// found again by the file behind it (device and inode number), never by a name. What the driver makes carries the
// pool and the volume in its status, set in the same ioctl that binds it (LOOP_CONFIGURE), so that a driver that is
// killed at any instant leaves nothing that the next one cannot tell from others' devices:
//
//	Attach   the image's device, made or found again
//	Find     whether there is one
//	Grow     the device takes over the size of its file
//	Detach   the device goes; refused while it is mounted, or a machine has it
//	Sweep    at start: those of this pool that nobody needs any more go
//
// The sectors are of 512 bytes, as those of the virtio disks that the same images become in machines: a file system
// made on the one must mount on the other.
//
// Package csi is the caller, and orders calls for one volume. What is in an image must never matter here.
package loop

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

var (
	// ErrInUse says that the device is mounted, or that a process has it open.
	ErrInUse = errors.New("the loop device is in use")
	// ErrForeign says that somebody else has made a loop device over the image.
	ErrForeign = errors.New("the image has a loop device that is not this driver's")
	// ErrNoDevice says that the image has no loop device.
	ErrNoDevice = errors.New("the image has no loop device")
)

// sectorBytes is the logical block size of all devices.
const sectorBytes = 512

const (
	markPrefix = "kd:"
	markDigits = 12
	// maxMarkBytes is what the kernel keeps of a name (LO_NAME_SIZE), without the NUL.
	maxMarkBytes = 63
)

// Device is a bound loop device.
type Device struct {
	// Path is the device's node in /dev.
	Path string
	// Number is its device number, as stat's rdev.
	Number uint64
	// ReadOnly says that it was attached so.
	ReadOnly bool
	// DirectIO says that reads and writes do not pass through the host's page cache.
	DirectIO bool
}

// Devices are the loop devices over the images of one pool. The methods may be called from several goroutines at
// once; calls for one image must not overlap.
type Devices struct {
	mark string // what the names of this pool's devices begin with
	dir  string
	log  *slog.Logger

	mu    sync.Mutex
	hints map[string]int // by image: where it was last; only a head start. Guarded by mu
}

// New returns the devices over images below dir, the pool's folder, which is there (absolute, without links).
func New(dir string, log *slog.Logger) *Devices {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	sum := sha256.Sum256([]byte(identity(dir)))
	return &Devices{
		mark: markPrefix + hex.EncodeToString(sum[:])[:markDigits] + ":", dir: dir, log: log, hints: map[string]int{},
	}
}

// identity says which folder it is: nodes that are containers of one host have loop devices in common, and a pool each, all
// at the same path.
func identity(dir string) string {
	var stat unix.Stat_t
	if err := unix.Stat(dir, &stat); err != nil {
		return dir
	}
	return fmt.Sprintf("%s %x:%x", dir, stat.Dev, stat.Ino)
}

// Attach returns the image's device, as large as the image is now, and makes it if there is none. It returns ErrForeign when somebody else has made one, and ErrInUse when there is one with the other readOnly that
// is in use.
func (d *Devices) Attach(ctx context.Context, image string, readOnly bool) (Device, error) {
	device, err := d.attach(ctx, image, readOnly)
	if err != nil {
		return Device{}, fmt.Errorf("attach a loop device to %s: %w", image, err)
	}
	return device, nil
}

func (d *Devices) attach(ctx context.Context, image string, readOnly bool) (Device, error) {
	file, err := openImage(image, readOnly)
	if err != nil {
		return Device{}, err
	}
	defer file.Close()
	id, err := fileIDOf(file)
	if err != nil {
		return Device{}, err
	}
	present, err := d.find(image, id)
	switch {
	case errors.Is(err, ErrNoDevice):
	case err != nil:
		return Device{}, err
	case present.readOnly() == readOnly:
		defer present.close()
		return present.device(), errors.Join(present.keep(), present.readSize())
	default:
		err := present.detach(ctx)
		present.close()
		if err != nil {
			return Device{}, fmt.Errorf("it is attached read-only=%t: %w", !readOnly, err)
		}
	}
	return d.bind(ctx, image, file, readOnly)
}

// Find returns the image's device, or ErrNoDevice. ErrForeign as for Attach.
func (d *Devices) Find(_ context.Context, image string) (Device, error) {
	found, err := d.findImage(image)
	if err != nil {
		return Device{}, fmt.Errorf("find the loop device of %s: %w", image, err)
	}
	defer found.close()
	return found.device(), nil
}

func (d *Devices) findImage(image string) (*bound, error) {
	file, err := openImage(image, true)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	id, err := fileIDOf(file)
	if err != nil {
		return nil, err
	}
	return d.find(image, id)
}

// Grow has the image's device take over the size that the image has now. Without a device there is nothing to do.
func (d *Devices) Grow(_ context.Context, image string) error {
	found, err := d.findImage(image)
	if errors.Is(err, ErrNoDevice) {
		return nil
	}
	if err == nil {
		defer found.close()
		err = found.readSize()
	}
	if err != nil {
		return fmt.Errorf("grow the loop device of %s: %w", image, err)
	}
	return nil
}

// SetReadOnly has the kernel refuse, or allow, writes to the image's device.
func (d *Devices) SetReadOnly(_ context.Context, image string, readOnly bool) error {
	found, err := d.findImage(image)
	if err == nil {
		defer found.close()
		err = found.setReadOnly(readOnly)
	}
	if err != nil {
		return fmt.Errorf("set the loop device of %s read-only=%t: %w", image, readOnly, err)
	}
	return nil
}

// Detach takes the image's device away; what was written through it is then on the disk. Without one there is nothing to
// do; somebody else's is left alone. An image that has vanished has the device that is marked as its own. It returns ErrInUse, and the device stays, while it is mounted or a machine has it; and also when a
// process has it merely open, but then it goes by itself when that process closes it.
func (d *Devices) Detach(ctx context.Context, image string) error {
	found, err := d.findHeld(image)
	if errors.Is(err, ErrNoDevice) || errors.Is(err, ErrForeign) {
		return nil
	}
	if err == nil {
		err = found.detach(ctx)
		found.close()
	}
	if err == nil {
		err = syncImage(image)
	}
	if errors.Is(err, unix.ENOENT) { // gone, or renamed: then nobody can say that this is what it holds
		err = nil
	}
	if err != nil {
		return fmt.Errorf("detach the loop device of %s: %w", image, err)
	}
	d.forget(image)
	return nil
}

// Sweep detaches the devices over images of this pool for which needed says no, by the name of the image's folder in
// the pool. One that is mounted or in a machine stays, and is logged: whoever has it is not known here.
func (d *Devices) Sweep(ctx context.Context, needed func(name string) bool) error {
	all, err := listBound()
	if err != nil {
		return fmt.Errorf("look for loop devices that nobody needs: %w", err)
	}
	for _, device := range all {
		b, err := openBound(device.number)
		if err != nil {
			continue // it went away meanwhile, or never was one
		}
		if name, ours := strings.CutPrefix(b.name(), d.mark); ours && !needed(name) {
			if err := b.detach(ctx); err != nil {
				d.log.WarnContext(ctx, "a loop device that no staged volume needs is in use; it stays",
					"device", b.path(), "volume", name, "error", err)
			} else {
				d.log.InfoContext(ctx, "detached a loop device that nobody needs", "device", b.path(), "volume", name)
			}
		}
		b.close()
	}
	return nil
}

// nameOf is what a device over the image is called: the pool's mark and the folder that the image is in.
func (d *Devices) nameOf(image string) string {
	name := filepath.Base(filepath.Dir(image))
	if inside, err := filepath.Rel(d.dir, image); err == nil {
		name, _, _ = strings.Cut(inside, "/")
	}
	return d.mark + name[:min(len(name), maxMarkBytes-len(d.mark))]
}

func (d *Devices) hint(image string) (int, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	number, found := d.hints[image]
	return number, found
}

func (d *Devices) remember(image string, number int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hints[image] = number
}

func (d *Devices) forget(image string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.hints, image)
}
