package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/katadirect/katadirect/internal/filesystem"
)

// MaxFreeze is the longest that a volume stands still, counted from the
// beginning, however often its freeze is extended.
const MaxFreeze = time.Minute

// listPatience bounds how long Volumes waits for each volume that is being
// worked on.
const listPatience = 250 * time.Millisecond

// Freezing is a volume that stands still.
type Freezing struct {
	ID        uint64
	Since     time.Duration // how long it has
	Remaining time.Duration
}

// Freeze makes the volume mounted at path stand still, with everything written
// out, for at most limit. One that does already has its time extended.
//
// It ends by itself in good time: see end in this file for what ends it. When
// the writing out takes longer than limit, or than ctx, the volume is let go
// at once after it, and is not frozen for the caller.
func (m *Mounts) Freeze(ctx context.Context, path string, limit time.Duration) (Freezing, error) {
	if limit <= 0 || limit > MaxFreeze {
		return Freezing{}, fmt.Errorf("%w: a volume can be frozen for up to %s, not for %s", ErrRequest, MaxFreeze, limit)
	}
	e, err := m.acquireVolume(ctx, path)
	if err != nil {
		return Freezing{}, err
	}
	path = filepath.Clean(path)
	if e.volume.readOnly {
		e.release()
		return Freezing{}, fmt.Errorf("freeze the volume at %s: %w: it does not change", path, ErrReadOnly)
	}
	if f, ok := m.freezes.extend(path, limit); ok {
		e.release()
		return f, nil
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	type result struct {
		Freezing
		error
	}
	results := make(chan result)
	// The kernel's call cannot be cut short, and as long as it runs the
	// volume must neither be unmounted nor grown: the turn goes with it.
	go func() {
		defer e.release()
		still, err := filesystem.Freeze(e.volume.mountPoint)
		var r result
		if r.error = err; err == nil {
			r.Freezing = m.freezes.add(path, still, limit)
		}
		select {
		case results <- r:
		case <-ctx.Done():
			if err == nil {
				m.freezes.end(path, r.ID, "nobody waited for it any more")
			}
		}
	}()
	select {
	case r := <-results:
		return r.Freezing, r.error
	case <-ctx.Done():
		return Freezing{}, fmt.Errorf("freeze the volume at %s: writing out what was not written yet took too long: %w", path, ctx.Err())
	}
}

// Thaw lets the volume mounted at path go on, if it stands still by the freeze
// with that id, or by any if id is 0. It says whether the volume stood still
// until now, and if not, why not.
func (m *Mounts) Thaw(path string, id uint64) (wasFrozen bool, ended string, err error) {
	path = filepath.Clean(path)
	m.mu.Lock()
	_, known := m.entries[path]
	m.mu.Unlock()
	if !known {
		return false, "", fmt.Errorf("%s: %w", path, ErrNotMounted)
	}
	wasFrozen, ended = m.freezes.end(path, id, "it was thawed")
	return wasFrozen, ended, nil
}

// StoodStill is how long the freeze with that id, which has just been ended by
// Thaw, has kept writers waiting; 0 if another has ended since.
func (m *Mounts) StoodStill(path string, id uint64) time.Duration {
	return m.freezes.stood(filepath.Clean(path), id)
}

// ThawAll lets every volume go on.
func (m *Mounts) ThawAll(why string) { m.ThawEach(m.freezes.paths(), why) }

// ThawEach lets those of the mount points go on that stand still.
func (m *Mounts) ThawEach(mountPoints []string, why string) {
	for _, point := range mountPoints {
		if frozen, _ := m.freezes.end(filepath.Clean(point), 0, why); frozen {
			slog.Warn("a frozen volume was thawed before its time", "mount_point", point, "reason", why)
		}
	}
}

// Mounted is what can be seen of a mounted volume.
type Mounted struct {
	MountPoint, Node, FSType string
	ReadOnly                 bool
	DeviceBytes              uint64
	Freezing                 *Freezing // nil unless it stands still
}

// Volumes lists the mounted volumes. One that is being worked on for longer
// than a moment is left out.
func (m *Mounts) Volumes(ctx context.Context) ([]Mounted, error) {
	var found []Mounted
	for _, path := range m.MountPoints() {
		patience, cancel := context.WithTimeout(ctx, listPatience)
		e, err := m.acquireVolume(patience, path)
		cancel()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if errors.Is(err, ErrNotMounted) || errors.Is(err, context.DeadlineExceeded) {
			continue
		}
		if err != nil {
			return nil, err
		}
		v := e.volume
		size, err := v.disk.SizeBytes()
		if err != nil {
			size = 0 // unplugged; its health says so
		}
		found = append(found, Mounted{
			MountPoint: v.mountPoint, Node: v.disk.Node, FSType: v.fstype, ReadOnly: v.readOnly, DeviceBytes: size,
			Freezing: m.freezes.of(path),
		})
		e.release()
	}
	return found, nil
}
