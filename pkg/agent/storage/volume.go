package storage

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/katadirect/katadirect/internal/condition"
	"github.com/katadirect/katadirect/internal/filesystem"
	"github.com/katadirect/katadirect/internal/mkfs"
	"github.com/katadirect/katadirect/pkg/agent/device"
)

// resizeTimeout bounds the wait for a device to show its new size. Kata's
// clients give up after 3 s altogether.
const resizeTimeout = 3 * time.Second

// Volume is a disk's file system that is mounted.
type Volume struct {
	disk       device.Disk
	fstype     string
	mountPoint string
	readOnly   bool
}

// growToDevice grows the file system to the size that the device now has.
func (v *Volume) growToDevice() error {
	size, err := v.disk.SizeBytes()
	if err != nil {
		return err
	}
	return filesystem.Grow(v.mountPoint, v.fstype, size)
}

// growAfterMount grows the file system if there is something to grow into.
// content is what was on the device before. Asking the kernel in vain would
// cost a flush of the journal.
func (v *Volume) growAfterMount(content filesystem.Content) error {
	if !content.Used() {
		return nil // it was made in the size of the device
	}
	size, err := v.disk.SizeBytes()
	if err != nil {
		return err
	}
	if content.SizeBytes > 0 && size < content.SizeBytes+leastGrowth {
		return nil
	}
	return filesystem.Grow(v.mountPoint, v.fstype, size)
}

// leastGrowth is what a file system has to gain at least, in bytes: it cannot
// use every last block of a device.
const leastGrowth = 1 << 20

// Resize waits until the device of the volume mounted at path has at least
// sizeBytes, and grows its file system to all of the device. 0 takes the
// device as it is. The volume stays in use all the while.
func (m *Mounts) Resize(ctx context.Context, path string, sizeBytes uint64) error {
	return m.withVolume(ctx, path, func(v *Volume) error {
		if v.readOnly {
			return fmt.Errorf("resize the volume at %s: %w", path, ErrReadOnly)
		}
		// The kernel would let the call wait for the thaw, whoever waits for its answer.
		if f := m.freezes.of(v.mountPoint); f != nil {
			return fmt.Errorf("resize the volume at %s: %w for another %s at most; thaw it, or try again then",
				path, filesystem.ErrFrozen, f.Remaining.Round(time.Second))
		}
		ctx, cancel := context.WithTimeout(ctx, resizeTimeout)
		defer cancel()
		if _, err := v.disk.WaitForSize(ctx, sizeBytes); err != nil {
			return fmt.Errorf("resize the volume at %s: %w", path, err)
		}
		return v.growToDevice()
	})
}

// Health is what can be said of a volume's state.
type Health struct {
	Usage filesystem.Usage
	// Problems are what is wrong.
	Problems []condition.Problem
}

// Health measures the volume mounted at path, and looks whether it is well.
func (m *Mounts) Health(ctx context.Context, path string) (Health, error) {
	var h Health
	err := m.withVolume(ctx, path, func(v *Volume) error {
		var err error
		if h.Usage, err = filesystem.Measure(v.mountPoint); err != nil {
			h.Problems = append(h.Problems, condition.Problem{Reason: condition.Unreadable, Message: err.Error()})
		}
		if size, err := v.disk.SizeBytes(); err != nil || size == 0 {
			h.Problems = append(h.Problems, condition.Problem{Reason: condition.DeviceGone, Message: "the device is gone"})
		}
		mounted, err := filesystem.MountAt(v.mountPoint)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrNotMounted, err)
		}
		h.Problems = append(h.Problems, filesystem.Problems(mounted, v.disk.Name, filesystem.Expected{
			Writable: !v.readOnly, Frozen: m.freezes.of(v.mountPoint) != nil,
		})...)
		return nil
	})
	return h, err
}

// withVolume calls f with the volume mounted at path, held against release.
func (m *Mounts) withVolume(ctx context.Context, path string, f func(*Volume) error) error {
	e, err := m.acquireVolume(ctx, path)
	if err != nil {
		return err
	}
	defer e.release()
	return f(e.volume)
}

// acquireVolume returns the entry of a volume mounted at path, held by the
// caller.
func (m *Mounts) acquireVolume(ctx context.Context, path string) (*entry, error) {
	path = filepath.Clean(path)
	m.mu.Lock()
	_, ok := m.entries[path]
	m.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("%s: %w", path, ErrNotMounted)
	}
	e, err := m.acquire(ctx, path)
	if err != nil {
		return nil, err
	}
	if e.volume == nil {
		e.release()
		return nil, fmt.Errorf("%s: %w", path, ErrNotMounted)
	}
	return e, nil
}

// sortDeepestFirst orders paths so that each comes before what it lies in.
func sortDeepestFirst(paths []string) {
	slices.SortFunc(paths, func(a, b string) int { return strings.Compare(b, a) })
}

// IsUnusable says whether an error is the request's fault rather than the
// guest's.
func IsUnusable(err error) bool {
	for _, target := range []error{ErrRequest, ErrDriver, filesystem.ErrOptions, filesystem.ErrUnsupported, mkfs.ErrOption,
		device.ErrAddress} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}
