package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/katadirect/katadirect/internal/filesystem"
	"github.com/katadirect/katadirect/pkg/agent/device"
	"github.com/katadirect/katadirect/pkg/agent/mirror"
	"github.com/katadirect/katadirect/pkg/agent/module"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

// Mounts is what shims have had mounted in this guest. Its exported fields are
// set once, before it is used by several goroutines.
type Mounts struct {
	Finder  *device.Finder
	Modules *module.Loader
	Tools   filesystem.Tools
	// DeviceTimeout bounds the wait for a device to appear.
	DeviceTimeout time.Duration

	mu      sync.Mutex
	entries map[string]*entry     // by mount point
	handed  map[string]handedOver // by mount point
	end     context.Context       // of the sandbox; made by ending
	doEnd   context.CancelFunc

	freezes freezes

	handing func(work context.Context) // nil but in tests, which wait in it before a volume is handed over
}

// entry is one mount point. Whoever works on it holds its turn; different
// mount points never wait for each other.
type entry struct {
	mounts     *Mounts
	mountPoint string
	turn       chan struct{}
	wanted     int // by how many, the one whose turn it is among them; guarded by mounts.mu

	// Guarded by turn; nobody changes them while nobody wants it.
	users  int
	shared bool // stays until ReleaseAll
	part   bool // of a volume, which it holds
	volume *Volume
	watch  *mirror.Mirror // keeps the content up to date
}

// acquire returns the entry of a mount point, held by the caller.
func (m *Mounts) acquire(ctx context.Context, mountPoint string) (*entry, error) {
	m.mu.Lock()
	if m.entries == nil {
		m.entries = make(map[string]*entry)
	}
	e := m.entries[mountPoint]
	if e == nil {
		e = &entry{mounts: m, mountPoint: mountPoint, turn: make(chan struct{}, 1)}
		m.entries[mountPoint] = e
	}
	e.wanted++
	m.mu.Unlock()
	select {
	case e.turn <- struct{}{}:
		return e, nil
	case <-ctx.Done():
		e.leave()
		return nil, fmt.Errorf("storage at %s is being worked on: %w", mountPoint, ctx.Err())
	}
}

func (e *entry) release() {
	<-e.turn
	e.leave()
}

// leave forgets a mount point at which there is nothing and that nobody works
// on: parts of volumes have one for each container that there ever was.
func (e *entry) leave() {
	e.mounts.mu.Lock()
	defer e.mounts.mu.Unlock()
	if e.wanted--; e.wanted == 0 && e.users == 0 {
		delete(e.mounts.entries, e.mountPoint)
	}
}

// Add makes the storage available at its mount point, or counts one user more
// if it already is; what a later user asks for beyond the mount point is not
// looked at, as in Kata's agent. Nothing is left behind on error.
func (m *Mounts) Add(ctx context.Context, s *agentproto.Storage) error {
	r, err := parse(s)
	if err != nil {
		return fmt.Errorf("storage %q: %w", s.GetSource(), err)
	}
	e, err := m.acquire(ctx, r.mountPoint)
	if err != nil {
		return err
	}
	defer e.release()
	there, err := e.isThere(r.mountPoint)
	if err != nil {
		return fmt.Errorf("storage %q at %s: %w", r.source, r.mountPoint, err)
	}
	if there {
		e.users++
		return nil
	}
	begin := time.Now()
	volume, watch, err := m.mount(ctx, r)
	if err != nil {
		return fmt.Errorf("storage %q at %s: %w", r.source, r.mountPoint, err)
	}
	e.users, e.volume, e.watch = e.users+1, volume, watch
	e.shared, e.part = r.shared || staysUntilTheEnd(r.driver), r.driver == DriverSubPath
	slog.Info("storage is mounted", "driver", r.driver, "source", r.source, "fstype", r.fstype,
		"mount_point", r.mountPoint, "took", time.Since(begin))
	return nil
}

// isThere says whether there is something for one more user. A volume whose release failed half way has its last user
// still and is unmounted: counted only, the next one would write into the folder and lose it with the machine.
func (e *entry) isThere(mountPoint string) (bool, error) {
	if e.users == 0 || e.volume == nil {
		return e.users > 0, nil
	}
	_, err := filesystem.MountAt(mountPoint)
	if errors.Is(err, filesystem.ErrNotMounted) {
		return false, nil
	}
	return err == nil, err
}

// mount has the driver do its work.
func (m *Mounts) mount(ctx context.Context, r request) (v *Volume, w *mirror.Mirror, err error) {
	switch r.driver {
	case "blk", "scsi", "mmioblk":
		v, err = m.mountDevice(ctx, r)
	case "virtio-fs":
		err = m.mountShare(r)
	case "ephemeral":
		err = mountEphemeral(ctx, r)
	case "local":
		err = makeLocal(r)
	case "bind":
		err = mountBind(r)
	case "watchable-bind":
		w, err = m.mountWatched(ctx, r)
	case "overlayfs":
		err = m.mountOverlay(r)
	case DriverSubPath:
		err = m.mountSubPath(ctx, r)
	default:
		err = fmt.Errorf("%w: %q", ErrDriver, r.driver)
	}
	return v, w, err
}

// Drivers are the names of all drivers.
func Drivers() []string {
	return []string{"blk", "scsi", "mmioblk", "virtio-fs", "ephemeral", "local", "bind", "watchable-bind", "overlayfs",
		DriverSubPath}
}

// staysUntilTheEnd says whether a driver's storage outlives its users: the
// memory-backed folders of a pod must survive a container's restart.
func staysUntilTheEnd(driver string) bool { return driver == "ephemeral" || driver == "local" }

// Release counts one user less, and with the last one unmounts, flushes and
// lets go of the device, so that it may be unplugged when Release has
// returned. A mount point that nobody uses is fine. After an error nothing has
// changed, and Release can be called again.
func (m *Mounts) Release(ctx context.Context, mountPoint string) error {
	mountPoint = filepath.Clean(mountPoint)
	e, err := m.acquire(ctx, mountPoint)
	if err != nil {
		return err
	}
	defer e.release()
	switch {
	case e.users == 0:
		return nil
	case e.users > 1:
		e.users--
		return nil
	case e.shared:
		return nil
	}
	return m.unmount(ctx, mountPoint, e)
}

// ReleaseAll unmounts everything, whoever uses it: the sandbox ends. It goes
// on after errors, and returns them joined.
func (m *Mounts) ReleaseAll(ctx context.Context) error {
	m.ThawAll("the sandbox ends")
	m.cutShort()
	points := m.MountPoints()
	// What is mounted below something else goes first, and parts of volumes
	// before all volumes.
	sortDeepestFirst(points)
	var failures []error
	for _, parts := range []bool{true, false} {
		for _, point := range points {
			failures = append(failures, m.releaseIf(ctx, point, parts))
		}
	}
	return errors.Join(failures...)
}

// ending returns a context that ends when the sandbox does.
func (m *Mounts) ending() context.Context {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.end == nil {
		m.end, m.doEnd = context.WithCancel(context.Background())
	}
	return m.end
}

// cutShort ends what goes on without a caller.
func (m *Mounts) cutShort() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.end != nil {
		m.doEnd()
		m.end = nil
	}
}

// MountPoints are those of every storage that is mounted, or is being.
func (m *Mounts) MountPoints() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.entries))
}

// releaseIf unmounts an entry that is a part of a volume, or is not.
func (m *Mounts) releaseIf(ctx context.Context, point string, part bool) error {
	e, err := m.acquire(ctx, point)
	if err != nil {
		return err
	}
	defer e.release()
	if e.users == 0 || e.part != part {
		return nil
	}
	return m.unmount(ctx, point, e)
}

// unmount takes an entry's mount away. The caller holds the entry.
func (m *Mounts) unmount(ctx context.Context, mountPoint string, e *entry) error {
	begin := time.Now()
	m.ThawEach([]string{mountPoint}, "the volume is being unmounted")
	if e.watch != nil {
		if err := e.watch.Close(ctx); err != nil {
			return fmt.Errorf("storage at %s: %w", mountPoint, err)
		}
		e.watch = nil
	}
	if err := filesystem.Unmount(mountPoint); err != nil {
		return fmt.Errorf("storage at %s: %w", mountPoint, err)
	}
	if e.volume != nil {
		ctx, cancel := context.WithTimeout(ctx, m.deviceTimeout())
		defer cancel()
		if err := filesystem.WaitReleased(ctx, e.volume.disk.Node); err != nil {
			return fmt.Errorf("storage at %s: %w", mountPoint, err)
		}
	}
	e.users, e.shared, e.part, e.volume = 0, false, false, nil
	m.freezes.forget(mountPoint)
	slog.Info("storage is unmounted", "mount_point", mountPoint, "took", time.Since(begin))
	return nil
}

func (m *Mounts) deviceTimeout() time.Duration {
	if m.DeviceTimeout > 0 {
		return m.DeviceTimeout
	}
	return device.DefaultTimeout
}
