package pool

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

var (
	// ErrAttachedDifferently says that the volume is attached already, but not as asked.
	ErrAttachedDifferently = errors.New("attached differently")
	// ErrTooManyAttached says that the node has as many volumes attached as it takes.
	ErrTooManyAttached = errors.New("too many volumes are attached")
)

// That a volume is attached to this node, and how, is an empty file in its folder with one of these names: it is there
// or not, and cannot be torn. Nothing on the host changes with it. It is what an orchestrator that attaches volumes
// before it uses them has been told, and stays true when the driver, or the node, is started again.
const (
	attachedName         = "attached"
	attachedReadOnlyName = "attached-read-only"
)

// Attach remembers that the volume is attached to this node. Attaching it again in the same way is a success. It
// returns ErrAttachedDifferently, ErrTooManyAttached when as many as most (0 means any number) are attached already,
// ErrNotFound or ErrDamaged.
func (p *Pool) Attach(ctx context.Context, id string, readOnly bool, most int) error {
	if _, err := p.Get(ctx, id); err != nil {
		return err
	}
	known, err := p.bookAttached(id, readOnly, most)
	if err != nil {
		return err
	}
	if known { // whoever noted it may have been killed before that was durable
		return p.syncVolume(id)
	}
	if err := p.markAttached(id, readOnly); err != nil {
		p.forgetAttached(id)
		return fmt.Errorf("attach volume %s: %w", id, diskError(err))
	}
	return nil
}

// bookAttached counts and notes in one step, so that two calls cannot both be the last.
func (p *Pool) bookAttached(id string, readOnly bool, most int) (known bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch present, attached := p.attached[id]; {
	case attached && present != readOnly:
		return true, fmt.Errorf("%w: volume %s is attached with read-only=%t, not %t", ErrAttachedDifferently, id, present, readOnly)
	case attached:
		return true, nil
	case most > 0 && len(p.attached) >= most:
		return false, fmt.Errorf("%w: %d, as many as this node takes; detach one first", ErrTooManyAttached, len(p.attached))
	}
	p.attached[id] = readOnly
	return false, nil
}

// Detach takes Attach back. A volume that is not attached, or not there, is a success.
func (p *Pool) Detach(ctx context.Context, id string) error {
	if err := ValidateID(id); err != nil {
		return err
	}
	if _, attached := p.Attached(id); !attached {
		return nil
	}
	if err := p.unmarkAttached(id); err != nil {
		return fmt.Errorf("detach volume %s: %w", id, err)
	}
	p.forgetAttached(id)
	return nil
}

// Attached reports whether the volume is attached to this node, and how.
func (p *Pool) Attached(id string) (readOnly, attached bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	readOnly, attached = p.attached[id]
	return readOnly, attached
}

func (p *Pool) forgetAttached(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.attached, id)
}

func (p *Pool) markAttached(id string, readOnly bool) error {
	f, err := openFolder(p.root, id)
	if err != nil {
		return err
	}
	defer f.close()
	name := attachedName
	if readOnly {
		name = attachedReadOnlyName
	}
	mark, err := openBelow(f.dir, name, unix.O_WRONLY|unix.O_CREAT, fileMode)
	if err != nil {
		return err
	}
	if err := errors.Join(mark.Close(), f.dir.Sync()); err != nil {
		return errors.Join(err, f.unmark())
	}
	return nil
}

func (p *Pool) unmarkAttached(id string) error {
	f, err := openFolder(p.root, id)
	if errors.Is(err, unix.ENOENT) {
		return p.root.Sync() // somebody has removed the folder, and the mark with it
	}
	if err != nil {
		return err
	}
	defer f.close()
	if err := f.unmark(); err != nil {
		return err
	}
	return f.dir.Sync()
}

func (f *folder) unmark() error {
	for _, name := range []string{attachedName, attachedReadOnlyName} {
		if err := unix.Unlinkat(int(f.dir.Fd()), name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return &os.PathError{Op: "unlink", Path: name, Err: err}
		}
	}
	return nil
}

// readAttached looks for the marks in a folder. Should both be there, the volume is attached for writing: that promises
// more.
func readAttached(dir int) (readOnly, attached bool) {
	var stat unix.Stat_t
	if unix.Fstatat(dir, attachedName, &stat, unix.AT_SYMLINK_NOFOLLOW) == nil {
		return false, true
	}
	return true, unix.Fstatat(dir, attachedReadOnlyName, &stat, unix.AT_SYMLINK_NOFOLLOW) == nil
}
