package pool

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

var (
	// ErrSnapshotNotFound says that the pool has no such snapshot.
	ErrSnapshotNotFound = errors.New("snapshot not found")
	// ErrNotReady says that a snapshot is taken, and what it holds is still being copied.
	ErrNotReady = errors.New("the snapshot is still being copied")
	// ErrGroupMember says that a snapshot belongs to a group, and goes with it.
	ErrGroupMember = errors.New("the snapshot is part of a group")
)

// Snapshot is what a volume held at one moment. Nothing of it ever changes.
type Snapshot struct {
	ID        string
	Name      string
	SourceID  string // the volume's id; the volume may be gone
	GroupID   string // "" if it is in no group
	FSType    string // the volume's
	SizeBytes int64
	Created   time.Time // when the volume was as it is here
	Ready     bool      // what it holds is whole and durable
}

// SnapshotSpec is what a snapshot is to be.
type SnapshotSpec struct {
	// Name is any string of 1 to 128 bytes. It decides the snapshot's id.
	Name     string
	SourceID string
}

// snapshotEntry is what the index knows of a snapshot's folder.
type snapshotEntry struct {
	snapshot Snapshot
	promised promise
	damage   error
}

// FindSnapshot returns the snapshot that an earlier call with the same spec has made. It returns ErrIncompatible when
// the snapshot of that name is one of another volume.
func (p *Pool) FindSnapshot(spec SnapshotSpec) (_ Snapshot, found bool, err error) {
	if err := checkName(spec.Name); err != nil {
		return Snapshot{}, false, err
	}
	e, found := p.snapshotEntry(p.SnapshotID(spec.Name))
	if !found {
		return Snapshot{}, false, nil
	}
	if e.damage == nil && e.snapshot.SourceID != spec.SourceID {
		return Snapshot{}, false, fmt.Errorf("%w: snapshot %q (%s) is one of volume %s, not of %s",
			ErrIncompatible, spec.Name, e.snapshot.ID, e.snapshot.SourceID, spec.SourceID)
	}
	return e.snapshot, true, e.damage
}

// BeginSnapshot begins a snapshot that is not there yet. It returns ErrNotFound when there is no such volume.
func (p *Pool) BeginSnapshot(ctx context.Context, spec SnapshotSpec) (*Draft, error) {
	return p.beginSnapshot(ctx, spec, "")
}

func (p *Pool) beginSnapshot(ctx context.Context, spec SnapshotSpec, group string) (*Draft, error) {
	v, err := p.Get(ctx, spec.SourceID)
	if err != nil {
		return nil, err
	}
	source, err := p.openImage(spec.SourceID)
	if err != nil {
		return nil, err
	}
	info, err := source.Stat()
	if err != nil {
		return nil, errors.Join(err, source.Close())
	}
	id := p.SnapshotID(spec.Name)
	d, err := p.newDraft(ctx, id, source, info.Size(), p.promiseOfCopy(diskBytes(source)))
	if err != nil {
		return nil, fmt.Errorf("snapshot of volume %s: %w", spec.SourceID, err)
	}
	d.snapshot = Snapshot{
		ID: id, Name: spec.Name, SourceID: spec.SourceID, GroupID: group, FSType: v.FSType, SizeBytes: info.Size(),
	}
	return d, nil
}

// Cut says that the moment which the snapshot is of has passed, and that only copying is left: from now on the
// snapshot is known, and not ready.
func (d *Draft) Cut(created time.Time) {
	d.snapshot.Created = created.UTC()
	d.pool.putSnapshot(snapshotEntry{snapshot: d.snapshot})
}

// FinishSnapshot makes the snapshot durable, ready and known. It comes after Cut.
func (d *Draft) FinishSnapshot() (Snapshot, error) {
	if err := d.publishSnapshot(); err != nil {
		return Snapshot{}, err
	}
	return d.announceSnapshot(), nil
}

func (d *Draft) publishSnapshot() error {
	s := d.snapshot
	m := snapshotMeta{Version: metaVersion, Name: s.Name, Source: s.SourceID, Group: s.GroupID, FSType: s.FSType, Created: s.Created}
	if err := d.publish(snapshotMetaName, m); err != nil {
		return fmt.Errorf("snapshot %s: %w", s.ID, diskError(err))
	}
	return nil
}

// announceSnapshot puts a published snapshot into the index. From now on it is promised what it takes, which nothing
// changes any more.
func (d *Draft) announceSnapshot() Snapshot {
	d.snapshot.Ready = true
	promised := d.pool.promiseOfCopy(diskBytes(d.image))
	d.pool.space.revert(promised, d.promised)
	d.pool.putSnapshot(snapshotEntry{snapshot: d.snapshot, promised: promised})
	d.ended()
	return d.snapshot
}

// DeleteSnapshot deletes a snapshot. One that is not there is a success, one of a group is ErrGroupMember.
func (p *Pool) DeleteSnapshot(_ context.Context, id string) error {
	if err := ValidateID(id); err != nil {
		return err
	}
	if err := p.removeDeleted(id); err != nil {
		return err
	}
	e, found := p.snapshotEntry(id)
	if !found {
		return nil
	}
	if e.snapshot.GroupID != "" {
		return fmt.Errorf("%w: snapshot %s belongs to group %s and is deleted with it", ErrGroupMember, id, e.snapshot.GroupID)
	}
	return p.deleteSnapshot(e)
}

func (p *Pool) deleteSnapshot(e snapshotEntry) error {
	id := e.snapshot.ID
	if err := p.renameAway(id); err != nil {
		return fmt.Errorf("delete snapshot %s: %w", id, err)
	}
	p.forgetSnapshot(id)
	p.space.release(e.promised)
	return p.removeDeleted(id)
}

// GetSnapshot returns a snapshot, or ErrInvalidID, ErrSnapshotNotFound or ErrDamaged.
func (p *Pool) GetSnapshot(_ context.Context, id string) (Snapshot, error) {
	if err := ValidateID(id); err != nil {
		return Snapshot{}, err
	}
	e, found := p.snapshotEntry(id)
	if !found {
		return Snapshot{}, fmt.Errorf("%w: %s", ErrSnapshotNotFound, id)
	}
	return e.snapshot, e.damage
}

// SnapshotPage returns up to most usable snapshots (0 means all), of one volume if sourceID is not empty, in the
// order of their ids, from the first whose id comes after the one given, and reports whether there are more.
func (p *Pool) SnapshotPage(_ context.Context, sourceID, after string, most int) (page []Snapshot, more bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	for _, id := range slices.Sorted(maps.Keys(p.snapshots)) {
		e := p.snapshots[id]
		if id <= after || e.damage != nil || sourceID != "" && e.snapshot.SourceID != sourceID {
			continue
		}
		if most > 0 && len(page) == most {
			return page, true
		}
		page = append(page, e.snapshot)
	}
	return page, false
}

func (p *Pool) snapshotEntry(id string) (snapshotEntry, bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	e, found := p.snapshots[id]
	return e, found
}

func (p *Pool) putSnapshot(e snapshotEntry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.snapshots[e.snapshot.ID] = e
}

func (p *Pool) forgetSnapshot(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.snapshots, id)
}

// forgetPending forgets a snapshot that did not become ready.
func (p *Pool) forgetPending(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e, found := p.snapshots[id]; found && !e.snapshot.Ready && e.damage == nil {
		delete(p.snapshots, id)
	}
}

// openImage opens the image of a volume or a snapshot for reading.
func (p *Pool) openImage(id string) (*os.File, error) {
	f, err := openFolder(p.root, id)
	if err != nil {
		return nil, err
	}
	defer f.close()
	return f.openImage(unix.O_RDONLY)
}

func checkName(name string) error {
	if name == "" || len(name) > maxNameBytes {
		return fmt.Errorf("%w: the name has %d bytes; 1 to %d are allowed", ErrInvalidSpec, len(name), maxNameBytes)
	}
	return nil
}
