package fsgroup

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// maxDepth is how deep folders are followed into each other: a path that
	// programs can name goes no deeper.
	maxDepth = unix.PathMax / 2
	// openFolders is how many of the folders on the way down are open at a time.
	openFolders = 32
	// namesBuffer bounds, in bytes, the names of a folder that are read ahead.
	namesBuffer = 4096
)

// folder is one on the way down from the root of a walk.
type folder struct {
	name   string // in the one above
	fd     int    // -1 while it is closed
	id     fileID
	at     int64    // how far it is read
	names  []string // that are read, and not looked at
	readUp bool     // there are no more
}

type fileID struct{ device, inode uint64 }

// walk calls visit with everything below root, by the open folder it is in and
// its name there: what is in a folder before the folder itself. Symbolic links
// are not followed, and what is deleted meanwhile is left out. However deep
// folders are in each other, only some of them are open at a time; moving one
// of the others meanwhile ends the walk with an error.
func walk(ctx context.Context, root *os.File, visit func(at int, name string) error) (err error) {
	var w walker
	defer w.close()
	if err := w.enter(int(root.Fd()), "."); err != nil {
		return err
	}
	for {
		dir := w.top()
		name, err := dir.next(ctx)
		switch {
		case err != nil:
			return err
		case name != "":
			err = w.enter(dir.fd, name)
			if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
				err = visit(dir.fd, name)
			}
			err = unlessGone(err)
		case len(w.way) == 1:
			return nil
		default:
			name = dir.name
			if err = w.leave(); err == nil {
				err = unlessGone(visit(w.top().fd, name))
			}
		}
		if err != nil {
			return err
		}
	}
}

func unlessGone(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// walker is on its way through a tree.
type walker struct{ way []folder }

func (w *walker) top() *folder { return &w.way[len(w.way)-1] }

// enter goes down into a folder, and closes one that is far above.
func (w *walker) enter(at int, name string) error {
	fd, err := openFolder(at, name)
	if err != nil {
		return err
	}
	if len(w.way) > maxDepth {
		return errors.Join(fmt.Errorf("%w: more than %d", ErrTooDeep, maxDepth), unix.Close(fd))
	}
	id, err := identify(fd)
	if err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	w.way = append(w.way, folder{name: name, fd: fd, id: id})
	if far := len(w.way) - 1 - openFolders; far >= 0 {
		return w.way[far].close()
	}
	return nil
}

// leave goes up again.
func (w *walker) leave() error {
	below, above := w.top(), &w.way[len(w.way)-2]
	if above.fd < 0 {
		if err := above.reopen(below.fd); err != nil {
			return err
		}
	}
	err := below.close()
	w.way = w.way[:len(w.way)-1]
	return err
}

func (w *walker) close() {
	for i := range w.way {
		_ = w.way[i].close() // it was read only
	}
}

// next is the name of the next thing in the folder, "" at its end.
func (f *folder) next(ctx context.Context) (string, error) {
	for len(f.names) == 0 && !f.readUp {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		buffer := make([]byte, namesBuffer)
		n, err := unix.ReadDirent(f.fd, buffer)
		if err != nil {
			return "", &os.PathError{Op: "read", Path: f.name, Err: err}
		}
		f.readUp = n <= 0
		_, _, f.names = unix.ParseDirent(buffer[:max(n, 0)], -1, nil)
	}
	if len(f.names) == 0 {
		return "", nil
	}
	name := f.names[0]
	f.names = f.names[1:]
	return name, nil
}

// close closes the folder and keeps how far it is read.
func (f *folder) close() (err error) {
	if f.fd < 0 {
		return nil
	}
	if f.at, err = unix.Seek(f.fd, 0, unix.SEEK_CUR); err != nil {
		err = &os.PathError{Op: "seek", Path: f.name, Err: err}
	}
	err = errors.Join(err, unix.Close(f.fd))
	f.fd = -1
	return err
}

// reopen opens the folder again, which is the one above the other.
func (f *folder) reopen(below int) (err error) {
	if f.fd, err = openFolder(below, ".."); err != nil {
		f.fd = -1
		return err
	}
	id, err := identify(f.fd)
	if err == nil && id != f.id {
		err = fmt.Errorf("folder %s has been moved", f.name)
	}
	if err != nil {
		return err
	}
	if _, err := unix.Seek(f.fd, f.at, unix.SEEK_SET); err != nil {
		return &os.PathError{Op: "seek", Path: f.name, Err: err}
	}
	return nil
}

func openFolder(at int, name string) (int, error) {
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return fd, nil
}

func identify(fd int) (fileID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fileID{}, err
	}
	return fileID{st.Dev, st.Ino}, nil
}
