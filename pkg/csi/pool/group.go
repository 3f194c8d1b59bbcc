package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// ErrGroupNotFound says that the pool has no such group of snapshots.
var ErrGroupNotFound = errors.New("group of snapshots not found")

// Group is a set of snapshots of one moment. It is made and deleted as a whole: a member counts only as long as its
// group's folder is there, which comes last and goes first.
type Group struct {
	ID      string
	Name    string
	Created time.Time
	Members []Snapshot // in the order of their ids
}

// GroupSpec is what a group is to be.
type GroupSpec struct {
	Name      string
	SourceIDs []string // each once
}

type groupEntry struct {
	meta   groupMeta
	damage error
}

// FindGroup returns the group that an earlier call with the same spec has made, or ErrIncompatible.
func (p *Pool) FindGroup(spec GroupSpec) (_ Group, found bool, err error) {
	if err := checkName(spec.Name); err != nil {
		return Group{}, false, err
	}
	g, err := p.GetGroup(p.GroupID(spec.Name))
	if errors.Is(err, ErrGroupNotFound) {
		return Group{}, false, nil
	}
	if err != nil {
		return Group{}, false, err
	}
	var wanted []string
	for _, id := range spec.SourceIDs {
		wanted = append(wanted, p.SnapshotID(memberName(spec.Name, id)))
	}
	slices.Sort(wanted)
	present := slices.Collect(func(yield func(string) bool) {
		for _, s := range g.Members {
			if !yield(s.ID) {
				return
			}
		}
	})
	if slices.ContainsFunc(g.Members, func(s Snapshot) bool { return !s.Ready }) {
		return Group{}, false, fmt.Errorf("%w: the group of snapshots %q (%s) is not whole any more: delete it", ErrIncompatible, spec.Name, g.ID)
	}
	if !slices.Equal(wanted, present) {
		return Group{}, false, fmt.Errorf("%w: the group of snapshots %q (%s) is of other volumes", ErrIncompatible, spec.Name, g.ID)
	}
	return g, true, nil
}

// GetGroup returns a group with its members, or ErrGroupNotFound or ErrDamaged.
func (p *Pool) GetGroup(id string) (Group, error) {
	if err := ValidateID(id); err != nil {
		return Group{}, err
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	e, found := p.groups[id]
	if !found {
		return Group{}, fmt.Errorf("%w: %s", ErrGroupNotFound, id)
	}
	g := Group{ID: id, Name: e.meta.Name, Created: e.meta.Created}
	for _, member := range e.meta.Members {
		s := p.snapshots[member].snapshot
		s.ID = member // of one that a deletion has come to already this is all there is
		g.Members = append(g.Members, s)
	}
	return g, e.damage
}

// BeginMember begins the snapshot of one volume of a group.
func (p *Pool) BeginMember(ctx context.Context, spec GroupSpec, sourceID string) (*Draft, error) {
	member := SnapshotSpec{Name: memberName(spec.Name, sourceID), SourceID: sourceID}
	return p.beginSnapshot(ctx, member, p.GroupID(spec.Name))
}

// FinishGroup makes a group of what was begun with BeginMember and cut at the same moment.
func (p *Pool) FinishGroup(spec GroupSpec, members []*Draft) (_ Group, err error) {
	m := groupMeta{Version: metaVersion, Name: spec.Name, Created: members[0].snapshot.Created}
	published := 0
	defer func() {
		if err != nil {
			for _, d := range members[:published] { // without a group they are nothing
				err = errors.Join(err, p.rename(d.id, draftPrefix+d.id))
			}
		}
	}()
	for _, d := range members {
		if err := d.publishSnapshot(); err != nil {
			return Group{}, err
		}
		published++
		m.Members = append(m.Members, d.id)
	}
	slices.Sort(m.Members)
	id := p.GroupID(spec.Name)
	if err := p.writeGroup(id, m); err != nil {
		return Group{}, fmt.Errorf("group of snapshots %q (%s): %w", spec.Name, id, diskError(err))
	}
	for _, d := range members {
		d.announceSnapshot()
	}
	p.mu.Lock()
	p.groups[id] = groupEntry{meta: m}
	p.mu.Unlock()
	return p.GetGroup(id)
}

func (p *Pool) writeGroup(id string, m groupMeta) (err error) {
	name := draftPrefix + id
	if err := removeFolder(p.root, name); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, removeFolder(p.root, name))
		}
	}()
	if err := unix.Mkdirat(int(p.root.Fd()), name, dirMode); err != nil {
		return err
	}
	dir, err := openBelow(p.root, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := writeMeta(dir, groupMetaName, m); err != nil {
		return err
	}
	if err := dir.Sync(); err != nil {
		return err
	}
	return p.rename(name, id)
}

// DeleteGroup deletes a group and its members. One that is not there is a success.
func (p *Pool) DeleteGroup(_ context.Context, id string) error {
	if err := ValidateID(id); err != nil {
		return err
	}
	p.mu.RLock()
	e, found := p.groups[id]
	p.mu.RUnlock()
	if !found {
		return p.removeDeleted(id)
	}
	if e.damage != nil {
		return e.damage // which snapshots are its own is not known
	}
	// From here on the members are nobody's, and scan finishes what a crash interrupts. The index keeps the group until
	// all of it is gone, so that a call that is repeated goes on.
	if err := p.renameAway(id); err != nil {
		return fmt.Errorf("delete the group of snapshots %s: %w", id, err)
	}
	for _, member := range e.meta.Members {
		s, found := p.snapshotEntry(member)
		if !found {
			continue
		}
		if err := p.deleteSnapshot(s); err != nil {
			return err
		}
	}
	if err := p.removeDeleted(id); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.groups, id)
	return nil
}
