package mirror

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"syscall"
)

// tree is what a folder holds, by the path from it; the folder itself is ".".
type tree map[string]entry

// entry is one file, folder or symbolic link. Two that are equal have the same content.
type entry struct {
	mode     fs.FileMode
	uid, gid uint32
	// For files: what tells one content from another.
	inode       uint64
	size, mtime int64
	// For symbolic links.
	link string
}

func (t tree) equal(o tree) bool { return maps.Equal(t, o) }

// readTree reads everything but the files' contents.
func readTree(root *os.Root) (tree, error) {
	t := make(tree)
	bytes := int64(0)
	if err := t.read(root, ".", &bytes); err != nil {
		return nil, err
	}
	return t, nil
}

func (t tree) read(root *os.Root, name string, bytes *int64) error {
	e, err := readEntry(root, name)
	if err != nil {
		return moving(err)
	}
	t[name] = e
	*bytes += e.size
	if len(t) > MaxEntries || *bytes > MaxBytes {
		return fmt.Errorf("%w: more than %d entries or %d bytes", ErrTooLarge, MaxEntries, MaxBytes)
	}
	if !e.mode.IsDir() {
		return nil
	}
	names, err := readNames(root, name)
	if err != nil {
		return moving(err)
	}
	for _, below := range names {
		if err := t.read(root, path.Join(name, below), bytes); err != nil {
			return err
		}
	}
	return nil
}

// readNames lists a folder, but not more than there may be.
func readNames(root *os.Root, name string) ([]string, error) {
	dir, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(MaxEntries + 1)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return names, err
}

func readEntry(root *os.Root, name string) (entry, error) {
	info, err := root.Lstat(name)
	if err != nil {
		return entry{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return entry{}, errors.New("no owner of " + name)
	}
	e := entry{mode: info.Mode(), uid: st.Uid, gid: st.Gid}
	switch e.mode.Type() {
	case fs.ModeDir:
	case 0:
		e.inode, e.size, e.mtime = st.Ino, st.Size, info.ModTime().UnixNano()
	case fs.ModeSymlink:
		e.link, err = root.Readlink(name)
	default:
		return entry{}, fmt.Errorf("%w: %s is a %s", ErrTooLarge, name, e.mode)
	}
	return e, err
}

func readFile(root *os.Root, name string, most int64) ([]byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = ErrTooLarge
	}
	return data, err
}

// moving takes what has vanished between one look and the next for what it is.
func moving(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESTALE) {
		return fmt.Errorf("%w: %w", errMoving, err)
	}
	return err
}
