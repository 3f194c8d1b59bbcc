package pool

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// scan rebuilds the index from the folders, finishes deletions and removes creations that a crash cut short.
func (p *Pool) scan(ctx context.Context) error {
	names, err := p.root.Readdirnames(-1)
	if err != nil {
		return err
	}
	var volumes []string
	for _, name := range names {
		if IsPoolID(name) {
			volumes = append(volumes, name)
		} else if err := p.scanEntry(ctx, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	found, err := p.readVolumes(ctx, volumes)
	if err != nil {
		return err
	}
	for i, id := range volumes {
		p.scanVolume(ctx, id, found[i])
	}
	// The removals, and the moves, must be durable before anything is made under the same name.
	p.dropLooseMembers(ctx)
	return p.root.Sync()
}

func (p *Pool) scanEntry(ctx context.Context, name string) error {
	switch {
	case isDeleted(name):
		if err := removeFolder(p.root, name); err != nil {
			p.log.WarnContext(ctx, "a deleted volume's folder cannot be removed; remove it by hand",
				"folder", name, "error", err)
			return nil
		}
		p.log.InfoContext(ctx, "finished an interrupted deletion", "folder", name)
	case isDraft(name):
		if err := removeFolder(p.root, name); err != nil {
			p.log.WarnContext(ctx, "an unfinished copy cannot be removed; remove it by hand", "folder", name, "error", err)
			return nil
		}
		p.log.InfoContext(ctx, "removed a copy that was interrupted", "folder", name)
	case IsSnapshotID(name):
		return p.scanSnapshot(ctx, name)
	case IsGroupID(name):
		return p.scanGroup(ctx, name)
	case name != lockName && name != "lost+found":
		p.log.WarnContext(ctx, "the pool has an entry that is not a volume; it is left alone", "name", name)
	}
	return nil
}

// scanVolume puts the volume into the index, whole or damaged, or removes it if it was never finished.
func (p *Pool) scanVolume(ctx context.Context, id string, found foundVolume) {
	err := found.err
	if err == nil {
		p.volumes.put(id, entry{volume: found.volume, unsettled: true})
		if found.attached {
			p.attached[id] = found.readOnly
		}
		p.space.add(p.promiseOf(found.volume).bookedBytes())
		return
	}
	if f := new(unfinishedError); errors.As(err, &f) {
		if err := removeFolder(p.root, id); err == nil {
			p.log.InfoContext(ctx, "removed a volume whose creation was interrupted", "volume", id, "why", f.why)
			return
		}
	}
	p.log.ErrorContext(ctx, "a volume is damaged; nothing of it is deleted", "volume", id, "error", err)
	// What it takes is taken from the free space already; nothing more is promised to it.
	p.volumes.put(id, entry{volume: Volume{ID: id}, damage: fmt.Errorf("%w: %s: %w", ErrDamaged, id, err)})
}

// unfinishedError says that a folder cannot hold anybody's data: no readable volume.json, and nothing ever written
// to the image.
type unfinishedError struct{ why error }

func (e *unfinishedError) Error() string { return e.why.Error() }

// whatIsWrong looks closely at a folder of which no volume could be read.
func (p *Pool) whatIsWrong(id string) error {
	f, err := openFolder(p.root, id)
	if err != nil {
		return err
	}
	defer f.close()
	_, metaErr := f.readMeta()
	size, imageErr := f.imageSize()
	switch {
	case metaErr == nil:
		return imageErr
	case errors.Is(imageErr, unix.ENOENT), imageErr == nil && size.allocatedBytes == 0:
		if torn, err := f.metaIsTorn(); !torn {
			return errors.Join(metaErr, err)
		}
		return &unfinishedError{metaErr}
	}
	return errors.Join(metaErr, imageErr)
}

// metaIsTorn reports whether volume.json is missing or as a crash leaves it: empty, cut short, or filled with zeros. A whole one that this program does not understand was written by somebody, and is kept.
func (f *folder) metaIsTorn() (bool, error) {
	file, err := openBelow(f.dir, metaName, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENOENT) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxMetaBytes+1))
	if err != nil {
		return false, err
	}
	return len(data) == 0 || data[len(data)-1] != metaEnd, nil
}
