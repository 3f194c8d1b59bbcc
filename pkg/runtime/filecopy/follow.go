package filecopy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

// piece is how much of a file one call carries.
const piece = 256 << 10

// follower keeps a folder's copy up to date. What is deleted stays in the copy: the protocol has no word for it. Where
// kubelet exchanges the content, that is one generation of it which nothing leads to any more.
type follower struct {
	root  *os.Root
	guest Guest
	to    string
	log   *slog.Logger

	copied map[string]entry
}

// errMoving says that the folder changed while it was read.
var errMoving = errors.New("it changes while it is read")

// copyWhole copies a folder that may move while it is read.
func (f *follower) copyWhole(ctx context.Context) (err error) {
	const tries = 5
	for range tries {
		if err = f.copy(ctx); !errors.Is(err, errMoving) {
			return err
		}
	}
	return err
}

// follow copies what changes, until ctx ends.
func (f *follower) follow(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
		if ctx.Err() != nil { // select takes either when both are ready
			return
		}
		switch err := f.copyWhole(ctx); {
		case ctx.Err() != nil:
			return
		case err == nil, errors.Is(err, errMoving):
			said = ""
		case err.Error() != said:
			said = err.Error()
			f.log.Warn("the guest's copy of a folder is not up to date", "folder", f.root.Name(), "error", err)
		}
	}
}

// copy sends what differs from what was sent: folders before what is in them, files before links, so that a link to a
// new generation comes when that is whole.
func (f *follower) copy(ctx context.Context) error {
	wanted, err := readTree(f.root)
	if err != nil || maps.Equal(wanted, f.copied) {
		return err
	}
	if f.copied == nil {
		f.copied = make(map[string]entry)
	}
	names := slices.SortedFunc(maps.Keys(wanted), func(a, b string) int {
		if isLink(wanted[a]) != isLink(wanted[b]) {
			if isLink(wanted[a]) {
				return 1
			}
			return -1
		}
		return strings.Compare(a, b)
	})
	left := int64(MaxBytes)
	for _, name := range names {
		e := wanted[name]
		if f.copied[name] == e {
			continue
		}
		data, err := f.content(name, e, left)
		if err != nil {
			return moving(err)
		}
		left -= int64(len(data))
		if err := send(ctx, f.guest, path.Join(f.to, name), e, data); err != nil {
			return err
		}
		f.copied[name] = e
	}
	again, err := readTree(f.root)
	if err == nil && !maps.Equal(wanted, again) {
		err = errMoving
	}
	for name := range f.copied { // another of that name is sent
		if _, there := wanted[name]; !there {
			delete(f.copied, name)
		}
	}
	return err
}

func isLink(e entry) bool { return e.mode&unix.S_IFMT == unix.S_IFLNK }

// content is what a file holds, or where a link leads to.
func (f *follower) content(name string, e entry, most int64) ([]byte, error) {
	switch e.mode & unix.S_IFMT {
	case unix.S_IFLNK:
		return []byte(e.link), nil
	case unix.S_IFDIR:
		return nil, nil
	}
	file, err := f.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return read(file, most)
}

func read(f io.Reader, most int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("more than %d bytes %w", MaxBytes, ErrNoShare)
	}
	return data, err
}

// moving takes what has vanished between one look and the next for what it is.
func moving(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESTALE) {
		return fmt.Errorf("%w: %w", errMoving, err)
	}
	return err
}

// readTree reads everything in a folder but the files' contents, by the path from it; the folder itself is ".". What is
// too much is not read to its end: whoever else may write to the folder must not fill this process.
func readTree(root *os.Root) (map[string]entry, error) {
	t := tree{root: root, entries: make(map[string]entry)}
	if err := t.read("."); err != nil {
		return nil, err
	}
	return t.entries, nil
}

type tree struct {
	root    *os.Root
	entries map[string]entry
	bytes   int64
}

// read adds one file, folder or link, and what is in it.
func (t *tree) read(name string) error {
	info, err := t.root.Lstat(name)
	if err != nil {
		return moving(err)
	}
	e, err := entryOf(info)
	if err != nil {
		return err
	}
	if isLink(e) {
		if e.link, err = t.root.Readlink(name); err != nil {
			return moving(err)
		}
	}
	t.entries[name] = e
	if t.bytes += e.size; len(t.entries) > MaxEntries || t.bytes > MaxBytes {
		return fmt.Errorf("more than %d entries or %d bytes %w", MaxEntries, MaxBytes, ErrNoShare)
	}
	if !info.IsDir() {
		return nil
	}
	names, err := t.names(name)
	if err != nil {
		return moving(err)
	}
	for _, below := range names {
		if err := t.read(path.Join(name, below)); err != nil {
			return err
		}
	}
	return nil
}

// names are those in a folder, or more than there is room for.
func (t *tree) names(folder string) ([]string, error) {
	dir, err := t.root.OpenFile(folder, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(MaxEntries + 1 - len(t.entries))
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	return names, err
}

// send puts one file, folder or link in its place in the guest.
func send(ctx context.Context, guest Guest, to string, e entry, data []byte) error {
	const onTheWay = 0o750
	r := &agentproto.CopyFileRequest{
		Path: to, FileMode: e.mode, DirMode: onTheWay, Uid: int32(e.uid), Gid: int32(e.gid), FileSize: int64(len(data)),
	}
	for {
		r.Data = data[r.Offset:min(r.Offset+piece, int64(len(data)))]
		if _, err := guest.CopyFile(ctx, r); err != nil {
			return err
		}
		if r.Offset += int64(len(r.Data)); r.Offset >= int64(len(data)) {
			return nil
		}
	}
}
