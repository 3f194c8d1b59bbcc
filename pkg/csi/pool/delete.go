package pool

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Delete deletes the volume and everything in it. A volume that is not there is a success, one whose image a process
// has locked is ErrImageInUse. When Delete returns, the volume does not come back after a power cut.
func (p *Pool) Delete(_ context.Context, id string) error {
	if err := ValidateID(id); err != nil {
		return err
	}
	// What an earlier call could not remove: until it is gone the data is not deleted, and its name is taken.
	if err := p.removeDeleted(id); err != nil {
		return err
	}
	e, found := p.entry(id)
	if !found {
		return nil
	}
	if err := p.CheckUnlocked(id); err != nil {
		return fmt.Errorf("delete volume %s: %w", id, err)
	}
	// From the rename on the volume is gone, whatever happens to its content: scan finishes what a crash interrupts.
	if err := p.renameAway(id); err != nil {
		return fmt.Errorf("delete volume %s: %w", id, err)
	}
	p.forget(id)
	if e.damage == nil { // nothing is promised to a damaged one
		p.space.release(p.promiseOf(e.volume)) // what cannot be removed is taken from the free space, and gets no more
	}
	return p.removeDeleted(id)
}

func (p *Pool) removeDeleted(id string) error {
	if err := removeFolder(p.root, deletedPrefix+id); err != nil {
		return fmt.Errorf("delete volume %s: its content is left in %s: %w", id, deletedPrefix+id, err)
	}
	return nil
}

func (p *Pool) renameAway(id string) error {
	change := p.committer.begin()
	root := int(p.root.Fd())
	err := unix.Renameat2(root, id, root, deletedPrefix+id, unix.RENAME_NOREPLACE)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		change.abandon()
		return &os.PathError{Op: "rename", Path: id, Err: err}
	}
	return change.commit()
}

// CheckUnlocked asks the kernel whether anybody holds a lock on the image, and returns ErrImageInUse if so. QEMU locks
// bytes of every image it has open, so this finds a machine that no record speaks of any more.
func (p *Pool) CheckUnlocked(id string) error {
	f, err := openFolder(p.root, id)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.close()
	if _, err := f.imageSize(); err != nil {
		return nil // damaged: there is no image that a machine could have open under this name
	}
	image, err := f.openImage(unix.O_RDWR)
	if err != nil {
		return fmt.Errorf("look for locks: %w", err)
	}
	defer image.Close()
	return checkUnlocked(image)
}

// checkUnlocked returns ErrImageInUse if anybody but this very file holds a lock.
func checkUnlocked(image *os.File) error {
	lock := unix.Flock_t{Type: unix.F_WRLCK} // the whole file
	if err := unix.FcntlFlock(image.Fd(), unix.F_OFD_GETLK, &lock); err != nil {
		return fmt.Errorf("look for locks: %w", err)
	}
	if lock.Type != unix.F_UNLCK {
		return fmt.Errorf("%w: a virtual machine or another process has it open and locked", ErrImageInUse)
	}
	return nil
}
