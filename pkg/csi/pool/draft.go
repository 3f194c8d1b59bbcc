package pool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/rollback"
)

// draftPrefix marks a folder that is being made. It is renamed when everything in it is whole and durable, so a
// crash leaves either all of it or something that begins with this, which scan removes.
const draftPrefix = ".making-"

// Draft is a volume or a snapshot that is being made from what another one holds:
//
//	d, err := p.BeginSnapshot(ctx, spec)   // or BeginVolume: space is taken, the folder is there
//	defer d.Discard(ctx)                   // does nothing after the end
//	err = d.LockSource()                   // if no machine has the source
//	err = d.Reflink()                      // if d.Reflinks(); or d.Copy(ctx); or d.Prepare(), and somebody else writes
//	made, err := d.FinishSnapshot(ctx, …)  // or FinishVolume: durable, and there for all
//
// One goroutine at a time uses it.
type Draft struct {
	pool   *Pool
	id     string
	source *os.File
	dir    *os.File
	image  *os.File

	prepared  bool
	sizeBytes int64   // what it will have
	promised  promise // of the pool's space
	snapshot  Snapshot
	volume    meta
}

// newDraft takes the space and makes the folder, in which nothing is yet.
func (p *Pool) newDraft(ctx context.Context, id string, source *os.File, sizeBytes int64, promised promise) (_ *Draft, err error) {
	d := &Draft{pool: p, id: id, source: source, sizeBytes: sizeBytes}
	defer func() {
		if err != nil {
			err = errors.Join(diskError(err), d.Discard(ctx))
		}
	}()
	if err := p.space.change(promise{}, promised, p.takenBytes); err != nil {
		return nil, err
	}
	d.promised = promised
	p.setMaking(id, promised)
	if err := removeFolder(p.root, draftPrefix+id); err != nil { // one that could not be removed before
		return nil, err
	}
	if err := unix.Mkdirat(int(p.root.Fd()), draftPrefix+id, dirMode); err != nil {
		return nil, &os.PathError{Op: "mkdir", Path: draftPrefix + id, Err: err}
	}
	if d.dir, err = openBelow(p.root, draftPrefix+id, unix.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
		return nil, err
	}
	if d.image, err = openBelow(d.dir, imageName, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, fileMode); err != nil {
		return nil, err
	}
	return d, d.image.Truncate(sizeBytes)
}

// Discard gives up what was not finished. It is called however the making ends.
func (d *Draft) Discard(context.Context) error {
	d.unlockSource()
	for _, f := range []**os.File{&d.source, &d.dir, &d.image} {
		if *f != nil {
			(*f).Close() // nothing was written through the source, and the others are on their way out
			*f = nil
		}
	}
	if d.id == "" {
		return nil
	}
	err := removeFolder(d.pool.root, draftPrefix+d.id)
	d.pool.endMaking(d.id)
	d.pool.space.release(d.promised)
	d.pool.forgetPending(d.id)
	d.id = ""
	return err
}

// Reflinks reports whether Reflink works in this pool.
func (p *Pool) Reflinks() bool { return p.reflinks }

// SizeBytes is how long the image will be.
func (d *Draft) SizeBytes() int64 { return d.sizeBytes }

// Sync writes out what the host has not written yet of the source, so that Reflink, before which the kernel does the
// same, finds little left.
func (d *Draft) Sync() error { return d.source.Sync() }

// LockSource keeps machines from opening the source until the draft ends, and returns ErrImageInUse if one has it
// open: QEMU locks single bytes of its images, and a lock on all of them for reading conflicts with a writer's.
func (d *Draft) LockSource() error {
	lock := unix.Flock_t{Type: unix.F_RDLCK}
	if err := unix.FcntlFlock(d.source.Fd(), unix.F_OFD_SETLK, &lock); err != nil {
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
			return fmt.Errorf("%w: another process has it locked", ErrImageInUse)
		}
		return fmt.Errorf("lock %s: %w", d.source.Name(), err)
	}
	// First the lock, then the look: of two that come at once, at least one sees the other.
	return checkUnlocked(d.source)
}

// unlockSource gives up LockSource's lock in so many words: a child that is just being forked has the file open until it
// executes its program, and closing ours would leave it locked so long.
func (d *Draft) unlockSource() {
	if d.source != nil {
		_ = unix.FcntlFlock(d.source.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_UNLCK})
	}
}

// Reflink makes the draft share all of the source's blocks, as they are at this moment.
func (d *Draft) Reflink() error {
	if err := reflink(d.image, d.source); err != nil {
		return diskError(err)
	}
	return d.image.Truncate(d.sizeBytes)
}

// Copy copies what the source holds, and leaves its holes. Nobody may write to the source meanwhile.
func (d *Draft) Copy(ctx context.Context) error {
	log := d.pool.log.With("from", d.source.Name(), "to", d.id)
	if err := copySparse(ctx, d.image, d.source, log); err != nil {
		return fmt.Errorf("copy into %s: %w", d.id, diskError(err))
	}
	return nil
}

// Prepare makes room for all bytes of the image, which somebody else is to write at the path returned: he must not
// find the disk full half way. FinishSnapshot and FinishVolume give back what he has not written.
func (d *Draft) Prepare() (imagePath string, err error) {
	if full := d.pool.promiseOfCopy(d.sizeBytes); full.costBytes > d.promised.costBytes {
		if err := d.pool.space.change(d.promised, full, d.pool.takenBytes); err != nil {
			return "", err
		}
		d.promised = full
		d.pool.setMaking(d.id, full)
	}
	d.prepared = true
	err = unix.Fallocate(int(d.image.Fd()), 0, 0, d.sizeBytes)
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) { // where it cannot be allocated it is at least promised
		return "", fmt.Errorf("make room for the copy: %w", diskError(err))
	}
	return filepath.Join(d.pool.dir, draftPrefix+d.id, imageName), nil
}

// publish makes the folder durable and gives it its name.
func (d *Draft) publish(metaFile string, content any) (err error) {
	if d.prepared {
		if err := punchHoles(d.image); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
	}
	// The data first: it takes long, and the commit below is shared with others.
	if err := d.image.Sync(); err != nil {
		return err
	}
	if err := d.inheritMark(); err != nil {
		return err
	}
	if err := writeMeta(d.dir, metaFile, content); err != nil {
		return err
	}
	if err := d.dir.Sync(); err != nil {
		return err
	}
	return d.pool.rename(draftPrefix+d.id, d.id)
}

// ended says that the folder is what it was to be: Discard closes what is open and does no more.
func (d *Draft) ended() {
	d.pool.endMaking(d.id)
	d.id = ""
}

// rename gives a folder of the pool another name, which nobody has, durably. When the name was given and could not be
// made durable, it is taken back.
func (p *Pool) rename(from, to string) (err error) {
	root := int(p.root.Fd())
	change := p.committer.begin()
	if err := unix.Renameat2(root, from, root, to, unix.RENAME_NOREPLACE); err != nil {
		change.abandon()
		return &os.PathError{Op: "rename", Path: from, Err: err}
	}
	var undo rollback.Stack
	defer undo.OnError(context.Background(), &err)
	undo.Push("take the name back", func(context.Context) error {
		return unix.Renameat2(root, to, root, from, unix.RENAME_NOREPLACE)
	})
	return change.commit()
}

// writeMeta writes a description, durably.
func writeMeta(dir *os.File, name string, content any) (err error) {
	data, err := json.Marshal(content)
	if err != nil {
		return err
	}
	f, err := openBelow(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(append(data, metaEnd)); err != nil {
		return err
	}
	return f.Sync()
}

// isDraft reports whether a name in the pool is that of a folder which a crash has kept from being finished.
func isDraft(name string) bool {
	id, found := strings.CutPrefix(name, draftPrefix)
	return found && isOurs(id)
}
