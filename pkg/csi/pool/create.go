package pool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/rollback"
)

// maxNameBytes is what CSI allows a volume's name to be.
const maxNameBytes = 128

// Spec is what a volume is to be.
type Spec struct {
	// Name is any string of 1 to 128 bytes. It decides the volume's id.
	Name string
	// FSType is the file system the guest makes in it: one of FileSystems.
	FSType string
	// Parameters are kept with the volume; a repeated Create must have the same.
	Parameters map[string]string
	Size       SizeRange
	// Overcommit is how many bytes may be promised for each that there is, 1 to what the pool was opened with; 0 is
	// whatever that is.
	Overcommit float64
	// Source is the id of the volume or snapshot that it is to hold the content of; Create makes empty ones only.
	Source string
}

// Create makes the volume, or returns the one that an earlier call with a compatible Spec has made. When it returns,
// the volume survives a power cut. It returns ErrIncompatible when a volume of that name is something else,
// ErrInvalidSpec, ErrOutOfRange or ErrNoSpace.
func (p *Pool) Create(ctx context.Context, spec Spec) (_ Volume, err error) {
	if err := checkName(spec.Name); err != nil {
		return Volume{}, err
	}
	if spec.Source != "" {
		return Volume{}, fmt.Errorf("%w: Create makes empty volumes; BeginVolume copies", ErrInvalidSpec)
	}
	sizeBytes, err := spec.Size.choose(spec.FSType)
	if err != nil {
		return Volume{}, fmt.Errorf("create volume %q: %w", spec.Name, err)
	}
	id := p.ID(spec.Name)
	if e, found := p.entry(id); found {
		v, err := existing(e, spec)
		if err == nil {
			err = p.settle(id)
		}
		return v, err
	}

	if err := p.checkOwnOvercommit(spec.Overcommit); err != nil {
		return Volume{}, fmt.Errorf("create volume %q: %w", spec.Name, err)
	}
	m := meta{
		Version: metaVersion, Name: spec.Name, FSType: spec.FSType, Overcommit: spec.Overcommit,
		Parameters: maps.Clone(spec.Parameters), Created: time.Now().UTC(),
	}
	volume := p.volume(id, m, sizeBytes)

	var undo rollback.Stack
	defer undo.OnError(ctx, &err)
	if err := p.space.change(promise{}, p.promiseOf(volume), p.takenBytes); err != nil {
		return Volume{}, fmt.Errorf("create volume %q: %w", spec.Name, err)
	}
	undo.Push("give the space back", func(context.Context) error {
		p.space.release(p.promiseOf(volume))
		return nil
	})
	if err := p.writeFolder(ctx, id, m, sizeBytes); err != nil {
		return Volume{}, fmt.Errorf("create volume %q (%s): %w", spec.Name, id, diskError(err))
	}
	p.put(volume)
	return volume, nil
}

// existing returns the volume that is there when it is what spec asks for.
func existing(e entry, spec Spec) (Volume, error) {
	v := e.volume
	switch {
	case e.damage != nil:
		return Volume{}, e.damage
	case v.FSType != spec.FSType:
		return Volume{}, fmt.Errorf("%w: volume %q (%s) has %s, not %s",
			ErrIncompatible, v.Name, v.ID, v.FSType, spec.FSType)
	case v.Source != spec.Source:
		return Volume{}, fmt.Errorf("%w: volume %q (%s) was made from %q, not from %q",
			ErrIncompatible, v.Name, v.ID, v.Source, spec.Source)
	case !maps.Equal(v.Parameters, spec.Parameters):
		return Volume{}, fmt.Errorf("%w: volume %q (%s) was made with other parameters: %v, not %v",
			ErrIncompatible, v.Name, v.ID, v.Parameters, spec.Parameters)
	case !spec.Size.holds(v.SizeBytes):
		return Volume{}, fmt.Errorf("%w: volume %q (%s) has %d bytes; at least %d and at most %d are asked for",
			ErrIncompatible, v.Name, v.ID, v.SizeBytes, spec.Size.RequiredBytes, spec.Size.LimitBytes)
	}
	return v, nil
}

// writeFolder makes the folder, the image and then volume.json, and makes all of it durable. A crash before the last
// step leaves a folder that scan recognises as never finished.
func (p *Pool) writeFolder(ctx context.Context, id string, m meta, sizeBytes int64) (err error) {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	change := p.committer.begin()
	if err := unix.Mkdirat(int(p.root.Fd()), id, dirMode); err != nil {
		change.abandon()
		return &os.PathError{Op: "mkdir", Path: id, Err: err} // what is there already is not ours to remove
	}
	var undo rollback.Stack
	defer undo.OnError(ctx, &err)
	undo.Push("remove the volume's folder", func(context.Context) error { return removeFolder(p.root, id) })
	files, err := makeFiles(p.root, id, append(data, metaEnd), sizeBytes)
	if err != nil {
		change.abandon()
	} else {
		err = change.commit(files...)
	}
	for _, f := range files {
		err = errors.Join(err, f.Close())
	}
	return err
}

// makeFiles returns volume.json, the image and their folder, open, as far as it came.
func makeFiles(root *os.File, id string, data []byte, sizeBytes int64) (files []*os.File, err error) {
	dir, err := openBelow(root, id, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	image, err := openBelow(dir, imageName, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, fileMode)
	if err != nil {
		return []*os.File{dir}, err
	}
	if err := image.Truncate(sizeBytes); err != nil {
		return []*os.File{dir, image}, err
	}
	description, err := openBelow(dir, metaName, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, fileMode)
	if err != nil {
		return []*os.File{dir, image}, err
	}
	_, err = description.Write(data)
	return []*os.File{description, image, dir}, err
}

// diskError gives the kernel's two words about space the names that callers know.
func diskError(err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	case errors.Is(err, unix.EFBIG):
		return fmt.Errorf("%w: the pool's file system cannot hold a file that large: %w", ErrOutOfRange, err)
	}
	return err
}
