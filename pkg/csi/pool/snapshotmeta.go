package pool

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// snapshotMetaName is the file that makes a folder a snapshot.
const snapshotMetaName = "snapshot.json"

// snapshotMeta is the content of snapshot.json. The size is not in it: the image's length is the only word on that.
type snapshotMeta struct {
	Version int       `json:"version"`
	Name    string    `json:"name"`
	Source  string    `json:"source"`
	Group   string    `json:"group,omitempty"`
	FSType  string    `json:"fstype"`
	Created time.Time `json:"created"`
}

// scanSnapshot puts a snapshot into the index. What is unfinished has another name, so one that cannot be read is
// damaged, and stays.
func (p *Pool) scanSnapshot(ctx context.Context, id string) error {
	e, err := p.readSnapshot(id)
	if err != nil {
		p.log.ErrorContext(ctx, "a snapshot is damaged; nothing of it is deleted", "snapshot", id, "error", err)
		e = snapshotEntry{snapshot: Snapshot{ID: id}, damage: fmt.Errorf("%w: snapshot %s: %w", ErrDamaged, id, err)}
	}
	p.snapshots[id] = e
	p.space.add(e.promised.bookedBytes())
	return nil
}

func (p *Pool) readSnapshot(id string) (snapshotEntry, error) {
	f, err := openFolder(p.root, id)
	if err != nil {
		return snapshotEntry{}, err
	}
	defer f.close()
	data, err := f.readFile(snapshotMetaName)
	if err != nil {
		return snapshotEntry{}, err
	}
	m, err := parseSnapshotMeta(id, data)
	if err != nil {
		return snapshotEntry{}, err
	}
	size, err := f.imageSize()
	if err != nil {
		return snapshotEntry{}, err
	}
	return snapshotEntry{
		snapshot: Snapshot{
			ID: id, Name: m.Name, SourceID: m.Source, GroupID: m.Group, FSType: m.FSType,
			SizeBytes: size.lengthBytes, Created: m.Created, Ready: true,
		},
		promised: p.promiseOfCopy(size.allocatedBytes),
	}, nil
}

// parseSnapshotMeta reads snapshot.json of the folder called id.
func parseSnapshotMeta(id string, data []byte) (snapshotMeta, error) {
	var m snapshotMeta
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("%s: %w", snapshotMetaName, err)
	}
	switch {
	case m.Version != metaVersion:
		return m, fmt.Errorf("%s has version %d; this program knows version %d", snapshotMetaName, m.Version, metaVersion)
	case !idNames(id, m.Name):
		return m, fmt.Errorf("%s is of the snapshot %q, whose folder has another name", snapshotMetaName, m.Name)
	case !IsPoolID(m.Source):
		return m, fmt.Errorf("%s names %q as the source, which is no volume's id", snapshotMetaName, m.Source)
	case m.Group != "" && !IsGroupID(m.Group):
		return m, fmt.Errorf("%s names %q as the group, which is no group's id", snapshotMetaName, m.Group)
	}
	return m, nil
}

// readFile reads a description, which is bounded.
func (f *folder) readFile(name string) ([]byte, error) {
	file, err := openBelow(f.dir, name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxMetaBytes+1))
	if err == nil && int64(len(data)) > maxMetaBytes {
		err = fmt.Errorf("%s is larger than %d KiB", name, maxMetaBytes/kib)
	}
	return data, err
}
