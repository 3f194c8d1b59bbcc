package directvolume

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// draft is a record folder in the making, under a temporary name. It is locked, so that sweep keeps off.
type draft struct {
	*folder
	file *os.File // mountInfo.json
	// settled says that the folder with its file, still empty, is on the disk.
	settled bool
}

// makeDraft makes a folder and an empty file in it, with the exact modes whatever the umask is. They are set before the
// first sync: a change after it would cost another.
func (r *rootDir) makeDraft(ctx context.Context) (*draft, error) {
	for {
		name := tempName()
		if err := unix.Mkdirat(r.fd(), name, dirMode); err != nil {
			return nil, fmt.Errorf("make record folder: %w", err)
		}
		f, err := r.lock(ctx, name)
		if errors.Is(err, ErrNotFound) {
			continue // swept before it was locked
		}
		if err == nil {
			var file *os.File
			if file, err = f.makeFile(); err == nil {
				return &draft{folder: f, file: file}, nil
			}
			f.close()
		}
		return nil, errors.Join(err, r.removeAll(name))
	}
}

func (f *folder) makeFile() (*os.File, error) {
	if err := unix.Fchmod(f.fd, dirMode); err != nil {
		return nil, fmt.Errorf("make record folder: %w", err)
	}
	fd, err := unix.Openat(f.fd, recordName, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, fileMode)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", recordName, err)
	}
	file := os.NewFile(uintptr(fd), recordName)
	if err := file.Chmod(fileMode); err != nil {
		return nil, errors.Join(fmt.Errorf("create %s: %w", recordName, err), file.Close())
	}
	return file, nil
}

// settle puts the folder on the disk, with the file's name in it, so that the file is all that filling it later waits for.
func (d *draft) settle() error {
	if err := unix.Fsync(d.fd); err != nil {
		return fmt.Errorf("sync record folder: %w", err)
	}
	d.settled = true
	return nil
}

// fill writes mountInfo.json. File and folder are on the disk before the folder gets a record's name, so that not even a
// power cut leaves an empty or torn record. That the name is there after a power cut is not waited for, and neither is
// that it is gone: see boot.go.
func (d *draft) fill(data []byte) error {
	_, err := d.file.Write(data)
	if err = errors.Join(err, d.file.Sync(), d.file.Close()); err != nil {
		return fmt.Errorf("write %s: %w", recordName, err)
	}
	if d.settled {
		return nil
	}
	if err := unix.Fsync(d.fd); err != nil {
		return fmt.Errorf("sync record folder: %w", err)
	}
	return nil
}

// drop takes the draft away again.
func (d *draft) drop() error {
	d.file.Close() // it may be closed already
	err := d.root.removeAll(d.name)
	d.close()
	return err
}

// makeTemp makes a whole record folder under a temporary name.
func (s *Store) makeTemp(ctx context.Context, root *rootDir, data []byte) (*folder, error) {
	d := s.background.takeSpare(root)
	if d == nil {
		var err error
		if d, err = root.makeDraft(ctx); err != nil {
			return nil, err
		}
	}
	if err := d.fill(data); err != nil {
		return nil, errors.Join(err, d.drop())
	}
	return d.folder, nil
}
