package directvolume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	recordName = "mountInfo.json"
	dirMode    = 0o700
	fileMode   = 0o600
)

// rootDir is the record root, held open for one operation. Every name below it is a single component that is opened
// without following links, so whatever stands there cannot lead out of it. It is a bare descriptor: an *os.File of each
// folder costs more system calls than the work on it.
type rootDir struct{ dir int }

// openRoot opens the record root and returns fs.ErrNotExist when there is none. A root that others could write in is
// refused: whoever can write a record chooses which of the host's disks a pod gets.
func openRoot(path string) (*rootDir, error) {
	dir, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open record root: %w", &fs.PathError{Op: "open", Path: path, Err: err})
	}
	r := &rootDir{dir}
	if err := checkOwner(r.fd()); err != nil {
		r.close()
		return nil, fmt.Errorf("%w: record root %s %w", ErrInvalid, path, err)
	}
	return r, nil
}

func (r *rootDir) fd() int { return r.dir }

func (r *rootDir) close() { unix.Close(r.dir) }

// dup opens the same folder once more, for who closes it later.
func (r *rootDir) dup() (*rootDir, error) {
	dir, err := unix.FcntlInt(uintptr(r.dir), unix.F_DUPFD_CLOEXEC, 0)
	return &rootDir{dir}, err
}

// names lists the root anew.
func (r *rootDir) names() ([]string, error) {
	names, err := readNames(r.fd())
	if err != nil {
		return nil, fmt.Errorf("list records: %w", err)
	}
	return names, nil
}

// has reports whether there is anything of that name.
func (r *rootDir) has(name string) (bool, error) {
	var stat unix.Stat_t
	err := unix.Fstatat(r.fd(), name, &stat, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("stat record folder %s: %w", name, err)
	}
	return true, nil
}

// readlink returns "" for what is not a link.
func (r *rootDir) readlink(name string) string {
	var target [unix.NAME_MAX + 1]byte // a longer one is no record's name
	n, err := unix.Readlinkat(r.fd(), name, target[:])
	if err != nil || n == len(target) {
		return ""
	}
	return string(target[:n])
}

// readNames lists an open folder, whatever was read through its descriptor before. Nobody else may read it meanwhile.
func readNames(fd int) ([]string, error) {
	if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
		return nil, err
	}
	var names []string
	buffer := make([]byte, 8192)
	for {
		n, err := unix.ReadDirent(fd, buffer)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n <= 0 || err != nil {
			return names, err
		}
		_, _, names = unix.ParseDirent(buffer[:n], -1, names)
	}
}

// folder is one record's folder, held open. The name may meanwhile stand for another one; the content read through
// it is still of one and the same record.
type folder struct {
	root *rootDir
	name string
	fd   int
}

// open opens a folder without locking it. It returns ErrNotFound, or ErrInvalid for what is not a folder of ours.
func (r *rootDir) open(name string) (*folder, error) {
	fd, err := unix.Openat(r.fd(), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, ErrNotFound
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return nil, invalidf("%s is not a folder", name)
	case err != nil:
		return nil, fmt.Errorf("open record folder %s: %w", name, err)
	}
	return &folder{root: r, name: name, fd: fd}, nil
}

// lock opens a folder and locks it. The lock is flock's: it is gone with the process, however that ends.
func (r *rootDir) lock(ctx context.Context, name string) (*folder, error) {
	for {
		f, err := r.open(name)
		if err != nil {
			return nil, err
		}
		if err := flock(ctx, f.fd); err != nil {
			f.close()
			return nil, fmt.Errorf("lock record folder %s: %w", name, err)
		}
		if current, err := f.current(); current || err != nil {
			if err != nil {
				f.close()
				return nil, err
			}
			return f, nil
		}
		// Replaced or removed while we waited: the lock is on something nobody will find again.
		f.close()
	}
}

// flock waits for an exclusive lock until ctx ends. The kernel's own wait cannot be interrupted, so it asks again and
// again; a lock is held for a few system calls only.
func flock(ctx context.Context, fd int) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 20*time.Millisecond) {
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

func (f *folder) close() {
	if f.fd >= 0 {
		unix.Close(f.fd)
	}
	f.fd = -1
}

// current reports whether the name still stands for this folder.
func (f *folder) current() (bool, error) {
	var mine, there unix.Stat_t
	if err := unix.Fstat(f.fd, &mine); err != nil {
		return false, fmt.Errorf("stat record folder %s: %w", f.name, err)
	}
	err := unix.Fstatat(f.root.fd(), f.name, &there, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("stat record folder %s: %w", f.name, err)
	}
	return mine.Dev == there.Dev && mine.Ino == there.Ino, nil
}

// read returns the record after checking everything about it: owner and mode of the folder and the file, that it is
// a plain file of a sane size, and its content.
func (f *folder) read() (Record, error) {
	data, err := f.readFile()
	if err != nil {
		return Record{}, err
	}
	record, err := ParseRecord(data)
	if err != nil {
		return Record{}, fmt.Errorf("%s: %w", recordName, err)
	}
	return record, nil
}

// readFile returns what is in mountInfo.json, after checking everything but that.
func (f *folder) readFile() ([]byte, error) {
	if err := checkOwner(f.fd); err != nil {
		return nil, invalidf("the folder %w", err)
	}
	// O_NONBLOCK: opening a FIFO or a device that stands there must not hang.
	fd, err := unix.Openat(f.fd, recordName, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, invalidf("the folder holds no %s: %w", recordName, err)
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENXIO):
		return nil, invalidf("%s is not a plain file", recordName)
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", recordName, err)
	}
	defer unix.Close(fd)
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return nil, fmt.Errorf("stat %s: %w", recordName, err)
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, invalidf("%s is not a plain file", recordName)
	}
	if err := checkOwnerOf(stat); err != nil {
		return nil, invalidf("%s %w", recordName, err)
	}
	data, err := readUpTo(fd, maxRecordBytes+1)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", recordName, err)
	}
	return data, nil
}

// readUpTo reads a plain file, which needs none of what an *os.File does beside.
func readUpTo(fd, most int) ([]byte, error) {
	data := make([]byte, 0, 1024)
	for len(data) < most {
		if len(data) == cap(data) {
			data = slices.Grow(data, len(data))
		}
		n, err := unix.Read(fd, data[len(data):min(cap(data), most)])
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return nil, err
		case n == 0:
			return data, nil
		default:
			data = data[:len(data)+n]
		}
	}
	return data, nil
}

// claims returns the ids of the claim files, sorted. Kata's reader takes every other name for a sandbox id; ours takes
// what can be one.
func (f *folder) claims() ([]string, error) {
	names, err := readNames(f.fd)
	if err != nil {
		return nil, fmt.Errorf("list claims: %w", err)
	}
	var ids []string
	for _, name := range names {
		var stat unix.Stat_t
		if CheckSandboxID(name) != nil || errors.Is(unix.Fstatat(f.fd, name, &stat, unix.AT_SYMLINK_NOFOLLOW), unix.ENOENT) {
			continue
		}
		if stat.Mode&unix.S_IFMT != unix.S_IFDIR {
			ids = append(ids, name)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// checkOwner says what is wrong when anyone but this process's user and root could have written the file.
func checkOwner(fd int) error {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return err
	}
	return checkOwnerOf(stat)
}

func checkOwnerOf(stat unix.Stat_t) error {
	if stat.Uid != 0 && int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("belongs to user %d", stat.Uid)
	}
	// Kata's Rust tools leave 0755 and 0644. Readable is not a danger, writable is.
	if mode := fs.FileMode(stat.Mode & 0o7777); mode&0o022 != 0 {
		return fmt.Errorf("can be written by others (mode %04o)", uint32(mode))
	}
	return nil
}
