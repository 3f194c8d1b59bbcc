package pool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// hostOnlyName is an empty file in a volume's folder: the file system in it was made by the host, and no machine has
// had it since.
//
// It is the presence that is trusted, not the absence. A volume without it whose image is not blank counts as written
// by a guest, so that a mark that is lost, or that a copy does not have, costs a mount on the host and nothing worse.
const hostOnlyName = "host-only"

// hostOnceName is what the mark is called while it is taken away. It means nothing.
const hostOnceName = "host-once"

// markNames are files that a volume's folder can have beside its image and its description.
var markNames = []string{hostOnlyName, hostOnceName}

// MarkHostOnly says, durably, that nobody but the host has written to the volume. The caller has found its image blank.
func (p *Pool) MarkHostOnly(_ context.Context, id string) error {
	f, err := openFolder(p.root, id)
	if err != nil {
		return fmt.Errorf("mark volume %s: %w", id, err)
	}
	defer f.close()
	if err := errors.Join(setMark(f.dir), f.dir.Sync()); err != nil {
		return fmt.Errorf("mark volume %s: %w", id, diskError(err))
	}
	return nil
}

// MarkHostOnly gives the draft the mark: the caller has made what is in it. It is durable when the draft is finished.
func (d *Draft) MarkHostOnly() error { return setMark(d.dir) }

// inheritMark gives the draft its source's mark. It comes when everything is copied: a machine that has got the source
// meanwhile has taken the mark away.
func (d *Draft) inheritMark() error {
	source := d.volume.Source
	if source == "" {
		source = d.snapshot.SourceID
	}
	if source == "" {
		return nil
	}
	marked, err := d.pool.HostOnly(source)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil // the source has been deleted, and a copy without a mark does no harm
	case err != nil || !marked:
		return err
	}
	return setMark(d.dir)
}

func setMark(dir *os.File) error {
	mark, err := openBelow(dir, hostOnlyName, unix.O_WRONLY|unix.O_CREAT, fileMode)
	if err != nil {
		return err
	}
	return errors.Join(mark.Sync(), mark.Close())
}

// UnmarkHostOnly takes the mark away, durably, before a machine gets the volume. It is never given again, save to a
// volume that is blank.
func (p *Pool) UnmarkHostOnly(_ context.Context, id string) error {
	f, err := openFolder(p.root, id)
	if err != nil {
		return fmt.Errorf("unmark volume %s: %w", id, err)
	}
	defer f.close()
	if err := unmarkHostOnly(f.dir); err != nil {
		return fmt.Errorf("unmark volume %s: %w", id, diskError(err))
	}
	return nil
}

// UnmarkImage takes the mark of an image away, if it is one of some pool, before a machine gets it of which that pool's
// driver does not know. The path may have links in it. What is no image of a pool is left as it is.
func UnmarkImage(path string) error {
	image, err := filepath.EvalSymlinks(path)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || err == nil && filepath.Base(image) != imageName {
		return nil
	}
	if err != nil {
		return fmt.Errorf("unmark image %s: %w", path, err)
	}
	dir, err := os.Open(filepath.Dir(image))
	if err != nil {
		return fmt.Errorf("unmark image %s: %w", path, err)
	}
	defer dir.Close()
	if err := unmarkHostOnly(dir); err != nil {
		return fmt.Errorf("unmark image %s: %w", path, diskError(err))
	}
	return nil
}

func unmarkHostOnly(folder *os.File) error {
	dir := int(folder.Fd())
	// By way of a second name, so that a call that is cut short before the sync leaves something for the next one to see:
	// a name that is merely gone from memory could come back with a power cut.
	err := unix.Renameat(dir, hostOnlyName, dir, hostOnceName)
	if errors.Is(err, unix.ENOENT) {
		var stat unix.Stat_t
		if err := unix.Fstatat(dir, hostOnceName, &stat, unix.AT_SYMLINK_NOFOLLOW); errors.Is(err, unix.ENOENT) {
			return nil
		}
		err = nil
	}
	if err == nil {
		err = folder.Sync()
	}
	if err == nil {
		err = unix.Unlinkat(dir, hostOnceName, 0)
	}
	return err
}

// HostOnly reports whether the volume has the mark.
func (p *Pool) HostOnly(id string) (bool, error) {
	f, err := openFolder(p.root, id)
	if err != nil {
		return false, fmt.Errorf("look for the mark of volume %s: %w", id, err)
	}
	defer f.close()
	var stat unix.Stat_t
	err = unix.Fstatat(int(f.dir.Fd()), hostOnlyName, &stat, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for the mark of volume %s: %w", id, &os.PathError{Op: "stat", Path: hostOnlyName, Err: err})
	}
	return stat.Mode&unix.S_IFMT == unix.S_IFREG, nil
}

// ImagePath is where a volume of that id has its image, whether there is such a volume or not.
func (p *Pool) ImagePath(id string) string { return filepath.Join(p.dir, id, imageName) }
