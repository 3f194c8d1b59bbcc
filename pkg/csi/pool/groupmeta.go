package pool

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// groupMetaName is the file that makes a folder a group of snapshots.
const groupMetaName = "group.json"

// groupMeta is the content of group.json.
type groupMeta struct {
	Version int       `json:"version"`
	Name    string    `json:"name"`
	Members []string  `json:"members"` // the snapshots' ids, sorted
	Created time.Time `json:"created"`
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
func (p *Pool) dropLooseMembers(ctx context.Context) {
	for id, e := range p.snapshots {
		group := e.snapshot.GroupID
		if _, found := p.groups[group]; found || group == "" {
			continue
		}
		if err := p.renameAside(id); err != nil {
			// What is left of an earlier one has the name, say. That is no reason to have no driver.
			p.log.ErrorContext(ctx, "a snapshot of a group that is gone cannot be removed", "snapshot", id, "error", err)
			p.snapshots[id] = snapshotEntry{
				snapshot: Snapshot{ID: id}, promised: e.promised,
				damage: fmt.Errorf("%w: snapshot %s is of a group that was not finished, or is deleted: delete it", ErrDamaged, id),
			}
			continue
		}
		if err := removeFolder(p.root, deletedPrefix+id); err != nil {
			p.log.WarnContext(ctx, "a snapshot of a group that is gone cannot be removed", "snapshot", id, "error", err)
		} else {
			p.log.InfoContext(ctx, "removed a snapshot whose group was not finished, or is deleted", "snapshot", id, "group", group)
		}
		delete(p.snapshots, id)
		p.space.release(e.promised)
	}
}

// renameAside is renameAway while the pool is being opened; scan makes it durable.
func (p *Pool) renameAside(id string) error {
	root := int(p.root.Fd())
	if err := unix.Renameat2(root, id, root, deletedPrefix+id, unix.RENAME_NOREPLACE); err != nil {
		return &os.PathError{Op: "rename", Path: id, Err: err}
	}
	return nil
}
