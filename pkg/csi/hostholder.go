package csi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/csi/pool"
)

// ioctl numbers of include/uapi/linux/fs.h.
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

// hostHolder is the host itself: it has the image in a loop device, and perhaps mounted.
type hostHolder struct {
	volumeID string
	draft    *pool.Draft
	reflinks bool
	device   string   // of the loop device
	mount    *os.File // the mounted file system's root, nil for a raw device

	frozen bool
	expiry *time.Timer
	over   chan struct{} // closed when the expiry has thawed it
}

// hostHolderOf returns nil if the host does not use the image.
func hostHolderOf(v pool.Volume, draft *pool.Draft, reflinks bool) (*hostHolder, error) {
	device, err := loopOf(v.ImagePath)
	if err != nil || device == "" {
		return nil, err
	}
	h := &hostHolder{volumeID: v.ID, draft: draft, reflinks: reflinks, device: device}
	point, err := mountedAt(device)
	if err != nil {
		return nil, err
	}
	if point != "" {
		h.mount, err = os.OpenFile(point, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	}
	return h, err
}

// thawLeftovers thaws what a driver that was killed has left frozen on the host: the kernel keeps a freeze for ever. What
// is not frozen is left as it is.
func thawLeftovers(ctx context.Context, poolDir string, log *slog.Logger) {
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, file := range files {
		image, err := os.ReadFile(file)
		if err != nil || !strings.HasPrefix(string(image), poolDir+"/") {
			continue
		}
		point, err := mountedAt("/dev/" + filepath.Base(filepath.Dir(filepath.Dir(file))))
		if err != nil || point == "" {
			continue
		}
		mount, err := os.OpenFile(point, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			continue
		}
		if unix.IoctlSetInt(int(mount.Fd()), fiThaw, 0) == nil {
			log.WarnContext(ctx, "thawed a file system that a driver before this one has left frozen", "mount", point)
		}
		mount.Close()
	}
}

// loopOf finds the loop device that has the image, by what the kernel says of all of them.
func loopOf(image string) (device string, err error) {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return "", err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil || strings.TrimSuffix(string(text), "\n") != image {
			continue // one that is just going
		}
		return "/dev/" + filepath.Base(filepath.Dir(filepath.Dir(file))), nil
	}
	return "", nil
}

// mountedAt returns a mount point of the device, "" if there is none. It goes by the device's name: btrfs has numbers of
// its own in the table.
func mountedAt(device string) (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// id parent major:minor root mount-point … - type source …; a bind mount of a single file cannot be opened as a
		// folder.
		fields := strings.Fields(lines.Text())
		dash := slices.Index(fields, "-")
		if dash > 4 && len(fields) > dash+2 && fields[dash+2] == device && fields[3] == "/" {
			return unescape.Replace(fields[4]), nil
		}
	}
	return "", lines.Err()
}

// unescape turns the kernel's octal escapes of a mount point back.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// prepare writes out what is written out while writers go on.
func (h *hostHolder) prepare(context.Context) error {
	if h.mount != nil {
		if err := unix.Syncfs(int(h.mount.Fd())); err != nil {
			return fmt.Errorf("write out %s: %w", h.mount.Name(), err)
		}
		return h.draft.Sync()
	}
	device, err := os.Open(h.device)
	if err != nil {
		return err
	}
	defer device.Close()
	return device.Sync()
}

// freeze makes the mount stand still. Writers wait from the beginning of the ioctl, which writes out what is left and
// cannot be cut short, so the time runs from there. A process that dies takes no freeze with it: the next driver thaws
// then (thawLeftovers).
func (h *hostHolder) freeze(_ context.Context, limit time.Duration) error {
	if h.mount == nil {
		return nil
	}
	began := time.Now()
	err := unix.IoctlSetInt(int(h.mount.Fd()), fiFreeze, 0)
	if errors.Is(err, unix.EBUSY) {
		return failf(ErrGuest, "volume %s is frozen on the host by somebody else; try again", h.volumeID)
	}
	if errors.Is(err, unix.EROFS) {
		return nil // it does not change
	}
	if err != nil {
		return fmt.Errorf("freeze volume %s, mounted at %s: %w", h.volumeID, h.mount.Name(), err)
	}
	took := time.Since(began)
	if took >= limit {
		err := unix.IoctlSetInt(int(h.mount.Fd()), fiThaw, 0)
		return errors.Join(failf(ErrGuest, "volume %s took %s to stand still on the host, and may for %s; try again, or allow more "+
			"time (%s)", h.volumeID, took.Round(time.Microsecond), limit, parameterFreezeLimit), err)
	}
	h.frozen, h.over = true, make(chan struct{})
	h.expiry = time.AfterFunc(limit-took, func() {
		_ = unix.IoctlSetInt(int(h.mount.Fd()), fiThaw, 0)
		close(h.over)
	})
	return nil
}

// mark copies, where it cannot reflink: on the host nobody else keeps what is overwritten.
func (h *hostHolder) mark(ctx context.Context) error {
	if h.reflinks {
		return h.draft.Reflink()
	}
	if h.mount == nil {
		return failf(ErrCannotFreeze, "volume %s is a raw device in use on this node, which nobody can hold still while it is copied. "+
			"End the pod first, or keep the pool on a file system with reflinks", h.volumeID)
	}
	err := h.draft.Copy(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return failf(ErrCannotFreeze, "volume %s is mounted on this node and holds more than can be copied while it stands still. "+
			"End the pod first, allow more time (%s), or keep the pool on a file system with reflinks: %w", h.volumeID, parameterFreezeLimit, err)
	}
	return err
}

func (h *hostHolder) thaw(context.Context) error {
	if !h.frozen {
		return nil
	}
	h.frozen = false
	if !h.expiry.Stop() {
		<-h.over
		return failf(ErrGuest, "volume %s did not stand still until its copy was made: the time was over; try again", h.volumeID)
	}
	err := unix.IoctlSetInt(int(h.mount.Fd()), fiThaw, 0)
	if errors.Is(err, unix.EINVAL) {
		return failf(ErrGuest, "somebody else has thawed volume %s on the host; try again", h.volumeID)
	}
	return err
}

func (h *hostHolder) finish(context.Context) error { return nil }

func (h *hostHolder) release(context.Context) {
	if h.mount != nil {
		h.mount.Close()
	}
}
