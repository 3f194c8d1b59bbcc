// Package hostmount mounts volumes on the host, for pods without a virtual machine.
//
//	Mount      loop device → (formatted if blank) → checked → mounted at the staging path, once for all pods of the node
//	Bind       the same at one pod's target path
//	Unbind     …and away there
//	Release    the mount at the staging path, and the loop device, when no pod has it any more
//	Grow       the loop device and the file system take over the image's size
//
// What is mounted where is read from the kernel's mount table each time. Nothing is remembered, so a driver that is
// killed and started again finds what there is, and every step can be repeated.
//
// File systems are mounted through k8s.io/mount-utils. What it does beyond that is left to internal/filesystem, as in the
// guest: FormatAndMount formats by force whatever blkid does not recognise, and blkid does not recognise an ext4 whose
// superblock has a wrong checksum; and its resizer calls such a one grown.
//
// Package csi is the caller. It orders calls for one volume, and decides which volumes the host may mount at all: a
// file system that a guest has written must not come here unless the StorageClass allows it.
package hostmount

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/moby/sys/mountinfo"
	"k8s.io/mount-utils"

	"github.com/katadirect/katadirect/internal/filesystem"
	"github.com/katadirect/katadirect/internal/rollback"
	"github.com/katadirect/katadirect/pkg/csi/loop"
)

var (
	// ErrMounted says that pods of the host still have the volume.
	ErrMounted = errors.New("the volume is mounted on the host")
	// ErrRefused says that the kernel will not have the file system, or an option, as it is.
	ErrRefused = errors.New("the kernel refuses to mount it")
)

// Mounts makes and finds mounts of the images of one pool.
type Mounts struct {
	loops   *loop.Devices
	mounter mount.Interface
	log     *slog.Logger
	looking sync.Map // by path: since when somebody waits for the file system there
}

// New returns the mounts of images that have those loop devices.
func New(loops *loop.Devices, log *slog.Logger) *Mounts {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Mounts{loops: loops, mounter: mount.NewWithoutSystemd(""), log: log}
}

// Volume is what is to be mounted.
type Volume struct {
	Image    string // absolute path
	FSType   string
	ReadOnly bool
	// Options are mount options of the file system, checked by the caller.
	Options []string
	// SELinuxLabel is the label that all files are to have; "" for their own.
	SELinuxLabel string
	// Format lets a blank image, or one whose format was cut short, be formatted, with those options of the mkfs program,
	// checked by the caller. Without it, such an image is filesystem.ErrBlank.
	Format      bool
	MkfsOptions string
}

// At returns the paths at which the image is mounted, in the order in which they were mounted.
func (m *Mounts) At(ctx context.Context, image string) ([]Point, error) {
	return pointsFound(m.loops.Find(ctx, image))
}

// held is At for who takes mounts away: those of an image that has vanished are found too.
func (m *Mounts) held(ctx context.Context, image string) ([]Point, error) {
	return pointsFound(m.loops.FindHeld(ctx, image))
}

func pointsFound(device loop.Device, err error) ([]Point, error) {
	if errors.Is(err, loop.ErrNoDevice) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return pointsOf(device.Path)
}

// Point is one mount of an image.
type Point struct {
	Path     string
	ReadOnly bool
}

// Is reports whether the mount is the one at a path, which has no links in it. Where kubelet's folder is itself a bind
// mount of another one, the kernel repeats in each what is mounted in the other: those are one mount, made at once and
// gone at once, and their folder is one.
func (p Point) Is(path string) bool {
	if p.Path == path {
		return true
	}
	if filepath.Base(p.Path) != filepath.Base(path) {
		return false
	}
	one, err := os.Stat(filepath.Dir(p.Path))
	if err != nil {
		return false
	}
	other, err := os.Stat(filepath.Dir(path))
	return err == nil && os.SameFile(one, other)
}

// pointsOf goes by the mount's source. Device numbers would do for ext4 and xfs, but those of btrfs are its own.
func pointsOf(device string) ([]Point, error) {
	mounts, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) { return i.Source != device, false })
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	var points []Point
	for _, i := range mounts {
		points = append(points, Point{Path: i.Mountpoint, ReadOnly: slices.Contains(splitOptions(i.Options), "ro")})
	}
	return points, nil
}

// Mount mounts the volume at a folder, or finds that it is mounted there. On error it takes back what it made.
func (m *Mounts) Mount(ctx context.Context, v Volume, path string) (err error) {
	points, err := m.At(ctx, v.Image)
	if err != nil {
		return fmt.Errorf("mount %s: %w", v.Image, err)
	}
	if slices.ContainsFunc(points, func(p Point) bool { return p.Is(path) }) {
		return nil
	}
	if len(points) > 0 {
		return fmt.Errorf("%w: %s is at %s, and is to be mounted at %s", ErrMounted, v.Image, points[0].Path, path)
	}
	var undo rollback.Stack
	defer undo.OnError(ctx, &err)
	undo.Push("detach the loop device", func(ctx context.Context) error { return m.loops.Detach(ctx, v.Image) })
	device, err := m.loops.Attach(ctx, v.Image, v.ReadOnly)
	if err != nil {
		return err
	}
	if err := m.prepare(ctx, v, device); err != nil {
		return err
	}
	if err := m.mounter.MountSensitiveWithoutSystemd(device.Path, path, v.FSType, mountOptions(v), nil); err != nil {
		return fmt.Errorf("mount %s at %s: %w", v.Image, path, explain(err))
	}
	undo.Push("unmount it again", func(context.Context) error { return unmount(path) })
	if v.ReadOnly {
		return nil
	}
	// It may have grown while nobody had it. Smaller than it could be, it is of use all the same.
	if err := m.Grow(ctx, v.Image, path, v.FSType); err != nil {
		m.log.WarnContext(ctx, "the file system is smaller than its volume and could not be grown", "image", v.Image, "error", err)
	}
	return nil
}

// explain finds the kind in what mount(8) says: nothing else of it comes through.
func explain(err error) error {
	said := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(err.Error(), w) })
	}
	switch {
	case said(exec.ErrNotFound.Error()):
		return fmt.Errorf("%w: install mount, which has mount(8): %w", filesystem.ErrNoProgram, err)
	case said("Input/output error", "can't read superblock", "Cannot allocate memory"):
		return err
	case said("bad option", "fsconfig", "Invalid argument", "File exists", "unknown filesystem type", "Structure needs cleaning"):
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return err
}

// mountOptions are those of mount(8). Copies of an xfs have its uuid, and no volume is ever mounted twice.
func mountOptions(v Volume) []string {
	options := slices.Clone(v.Options)
	if v.ReadOnly && !slices.Contains(options, "ro") {
		options = append(options, "ro")
	}
	if v.FSType == "xfs" && !slices.Contains(options, "nouuid") {
		options = append(options, "nouuid")
	}
	if v.SELinuxLabel != "" {
		options = append(options, fmt.Sprintf("context=%q", v.SELinuxLabel)) // mount(8) leaves it out where there is no SELinux
	}
	return options
}

// prepare makes sure that the device holds a file system of the right kind which is fit to be mounted.
func (m *Mounts) prepare(ctx context.Context, v Volume, device loop.Device) error {
	content, err := filesystem.Probe(device.Path)
	if err != nil {
		return err
	}
	switch {
	case !content.Used() && (!v.Format || v.ReadOnly):
		return fmt.Errorf("%w: %s", filesystem.ErrBlank, v.Image)
	case !content.Used():
		return filesystem.Formatter{Tools: filesystem.HostTools}.Format(ctx, device.Path, v.FSType, filesystem.How{Options: v.MkfsOptions})
	case content.IsOther(v.FSType):
		return fmt.Errorf("%w: %s is to have %s and holds: %s", filesystem.ErrOccupied, v.Image, v.FSType, content.Kind)
	case v.ReadOnly:
		return nil
	}
	repaired, err := filesystem.Checker{Tools: filesystem.HostTools}.Check(ctx, device.Path, v.FSType)
	if repaired != "" {
		m.log.WarnContext(ctx, "fsck has repaired a file system", "image", v.Image, "fsck", repaired)
	}
	return err
}
