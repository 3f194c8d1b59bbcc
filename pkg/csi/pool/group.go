package pool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// groupMetaName is the file that makes a folder a group of snapshots.
const groupMetaName = "group.json"

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

// groupMeta is the content of group.json.
type groupMeta struct {
	Version int       `json:"version"`
	Name    string    `json:"name"`
	Members []string  `json:"members"` // the snapshots' ids, sorted
	Created time.Time `json:"created"`
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
		g.Members = append(g.Members, p.snapshots[member].snapshot)
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

func (p *Pool) scanGroup(ctx context.Context, id string) error {
	m, err := p.readGroup(id)
	e := groupEntry{meta: m}
	if err != nil {
		p.log.ErrorContext(ctx, "a group of snapshots is damaged; nothing of it is deleted", "group", id, "error", err)
		e = groupEntry{damage: fmt.Errorf("%w: group of snapshots %s: %w", ErrDamaged, id, err)}
	}
	p.groups[id] = e
	return nil
}

func (p *Pool) readGroup(id string) (groupMeta, error) {
	f, err := openFolder(p.root, id)
	if err != nil {
		return groupMeta{}, err
	}
	defer f.close()
	data, err := f.readFile(groupMetaName)
	if err != nil {
		return groupMeta{}, err
	}
	return parseGroupMeta(id, data)
}

// parseGroupMeta reads group.json of the folder called id.
func parseGroupMeta(id string, data []byte) (groupMeta, error) {
	var m groupMeta
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("%s: %w", groupMetaName, err)
	}
	if m.Version != metaVersion {
		return m, fmt.Errorf("%s has version %d; this program knows version %d", groupMetaName, m.Version, metaVersion)
	}
	if !idNames(id, m.Name) {
		return m, fmt.Errorf("%s is of the group %q, whose folder has another name", groupMetaName, m.Name)
	}
	for _, member := range m.Members {
		if !IsSnapshotID(member) {
			return m, fmt.Errorf("%s names %q as a member, which is no snapshot's id", groupMetaName, member)
		}
	}
	return m, nil
}

// dropLooseMembers removes, after a scan, the snapshots of groups that were never finished, or whose deletion had
// begun.
func (p *Pool) dropLooseMembers(ctx context.Context) error {
	for id, e := range p.snapshots {
		group := e.snapshot.GroupID
		if _, found := p.groups[group]; found || group == "" {
			continue
		}
		if err := p.renameAside(id); err != nil {
			return fmt.Errorf("%s: %w", id, err)
		}
		if err := removeFolder(p.root, deletedPrefix+id); err != nil {
			p.log.WarnContext(ctx, "a snapshot of a group that is gone cannot be removed", "snapshot", id, "error", err)
		} else {
			p.log.InfoContext(ctx, "removed a snapshot whose group was not finished, or is deleted", "snapshot", id, "group", group)
		}
		delete(p.snapshots, id)
		p.space.release(e.promised)
	}
	return nil
}

// renameAside is renameAway while the pool is being opened; scan makes it durable.
func (p *Pool) renameAside(id string) error {
	root := int(p.root.Fd())
	if err := unix.Renameat2(root, id, root, deletedPrefix+id, unix.RENAME_NOREPLACE); err != nil {
		return &os.PathError{Op: "rename", Path: id, Err: err}
	}
	return nil
}
