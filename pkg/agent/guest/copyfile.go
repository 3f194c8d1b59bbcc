package guest

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// SharedDir is the one folder that files may be copied into.
const SharedDir = "/run/kata-containers/shared/containers"

// File is a file, or a piece of one, to be copied into the guest.
type File struct {
	Path string // absolute, below SharedDir
	Size int64  // of the whole, in bytes
	// Mode and DirMode are as in st_mode; DirMode is for folders on the way.
	Mode, DirMode uint32
	UID, GID      int
	Offset        int64  // of Data in the whole
	Data          []byte // a link's target, if Mode says that it is one
}

// partOf is the name under which something is until it is whole. It is no
// longer than the host's own names may be, and none of those: a suffix would
// make "a", while it is exchanged, the "a.tmp" that may be beside it.
func partOf(name string) string {
	hash := fnv.New64a()
	_, _ = io.WriteString(hash, filepath.Base(name))
	return filepath.Join(filepath.Dir(name), fmt.Sprintf(".katadirect-part-%016x", hash.Sum64()))
}

// CopyFile puts a piece of a file in its place. Pieces of one file come in
// order; with the last the file gets its name. Paths are resolved below
// SharedDir, and through no link that leads out of it.
func CopyFile(f File) error { return copyFile(SharedDir, f) }

func copyFile(base string, f File) error {
	name, below := strings.CutPrefix(filepath.Clean(f.Path), base+"/")
	if !below || name == "" {
		return fmt.Errorf("%w: %q is not below %s", ErrRequest, f.Path, base)
	}
	if err := os.MkdirAll(base, 0o755); err != nil {
		return fmt.Errorf("copy file: %w", err)
	}
	root, err := os.OpenRoot(base)
	if err != nil {
		return fmt.Errorf("copy file: %w", err)
	}
	defer root.Close()
	if dir := filepath.Dir(name); dir != "." {
		if err := root.MkdirAll(dir, fs.FileMode(f.DirMode&0o777)|0o700); err != nil {
			return fmt.Errorf("copy file: %w", err)
		}
	}
	switch f.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		err = makeFolder(root, name, f)
	case unix.S_IFLNK:
		err = makeLink(root, name, f)
	case unix.S_IFREG, 0:
		err = writePart(root, name, f)
	default:
		err = fmt.Errorf("%w: file type %#o", ErrRequest, f.Mode&unix.S_IFMT)
	}
	if err != nil {
		return fmt.Errorf("copy file %s: %w", f.Path, err)
	}
	return nil
}

func makeFolder(root *os.Root, name string, f File) error {
	if err := root.Mkdir(name, fs.FileMode(f.Mode&0o777)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return setOwner(root, name, f)
}

// makeLink exchanges a link for another in one step: what is read through it
// is the one content or the other.
func makeLink(root *os.Root, name string, f File) error {
	part := partOf(name)
	if err := root.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := root.Symlink(string(f.Data), part); err != nil {
		return err
	}
	if err := root.Lchown(part, f.UID, f.GID); err != nil {
		return err
	}
	return root.Rename(part, name)
}

func writePart(root *os.Root, name string, f File) error {
	if f.Offset < 0 || f.Size < 0 || f.Offset > f.Size || int64(len(f.Data)) > f.Size-f.Offset {
		return fmt.Errorf("%w: %d bytes at %d of %d", ErrRequest, len(f.Data), f.Offset, f.Size)
	}
	part := partOf(name)
	flags := os.O_WRONLY | os.O_CREATE
	if f.Offset == 0 {
		flags |= os.O_TRUNC
	}
	out, err := root.OpenFile(part, flags, 0o600)
	if err != nil {
		return err
	}
	_, err = out.WriteAt(f.Data, f.Offset)
	if err := errors.Join(err, out.Close()); err != nil {
		return err
	}
	if f.Offset+int64(len(f.Data)) < f.Size {
		return nil
	}
	if err := setOwner(root, part, f); err != nil {
		return err
	}
	return root.Rename(part, name)
}

// setOwner sets owner and mode, in this order: a change of owner takes
// set-user-id away.
func setOwner(root *os.Root, name string, f File) error {
	if err := root.Lchown(name, f.UID, f.GID); err != nil {
		return err
	}
	mode := fs.FileMode(f.Mode & 0o777)
	for bit, flag := range map[uint32]fs.FileMode{
		unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky,
	} {
		if f.Mode&bit != 0 {
			mode |= flag
		}
	}
	return root.Chmod(name, mode)
}
