package mirror

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
)

// change brings a folder from one state to another.
type change struct {
	target   *os.Root
	from, to tree
	contents map[string][]byte // of the files that are new or changed
}

// apply works in the order in which kubelet does, so that a reader of the copy sees what a reader of the original
// would: new folders and files, which nothing leads to yet; then the links, each exchanged at once, and the one that
// names the generation first; then what is no longer there.
func (c change) apply() error {
	names := slices.Sorted(maps.Keys(c.to)) // folders before what is in them
	for _, name := range names {
		if err := c.put(name, c.to[name]); err != nil {
			return errors.Join(err, c.removeAllBut(c.from)) // nothing leads to it yet
		}
	}
	links := slices.DeleteFunc(names, func(name string) bool { return c.to[name].mode.Type() != fs.ModeSymlink })
	slices.SortStableFunc(links, func(a, b string) int { return rank(a) - rank(b) })
	for _, name := range links {
		if c.from[name] == c.to[name] {
			continue
		}
		if err := c.link(name, c.to[name]); err != nil {
			return err
		}
	}
	return c.removeAllBut(c.to)
}

// rank has kubelet's own names, with two dots, before those that programs read.
func rank(name string) int {
	if strings.HasPrefix(name, "..") {
		return 0
	}
	return 1
}

// put makes or changes a folder or a file.
func (c change) put(name string, e entry) error {
	before, there := c.from[name]
	if there && before == e || e.mode.Type() == fs.ModeSymlink {
		return nil
	}
	if there && before.mode.Type() != e.mode.Type() {
		if err := c.target.RemoveAll(name); err != nil {
			return err
		}
	}
	if e.mode.IsDir() {
		if name != "." {
			if err := c.target.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
		return c.own(name, e)
	}
	temporary := besides(name)
	if err := c.target.WriteFile(temporary, c.contents[name], 0o600); err != nil {
		return err
	}
	if err := c.own(temporary, e); err != nil {
		return err
	}
	return c.target.Rename(temporary, name)
}

// own gives owner and mode. The owner comes first: a change of it takes set-id bits away.
func (c change) own(name string, e entry) error {
	if err := c.target.Lchown(name, int(e.uid), int(e.gid)); err != nil {
		return err
	}
	const bits = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
	return c.target.Chmod(name, e.mode&bits)
}

func (c change) link(name string, e entry) error {
	if before, there := c.from[name]; there && before.mode.Type() == fs.ModeDir {
		if err := c.target.RemoveAll(name); err != nil { // a name cannot be exchanged for a folder's
			return err
		}
	}
	temporary := besides(name)
	_ = c.target.Remove(temporary) // of a try that failed half way
	if err := c.target.Symlink(e.link, temporary); err != nil {
		return err
	}
	if err := c.target.Lchown(temporary, int(e.uid), int(e.gid)); err != nil {
		return err
	}
	return c.target.Rename(temporary, name)
}

// removeAllBut removes what is not in the tree, whether anybody remembers it or not.
func (c change) removeAllBut(wanted tree) error {
	there, err := readTree(c.target)
	if err != nil {
		return err
	}
	old := slices.DeleteFunc(slices.Sorted(maps.Keys(there)), func(name string) bool { _, stays := wanted[name]; return stays })
	// Links go before what they lead to.
	slices.SortStableFunc(old, func(a, b string) int {
		return boolToInt(there[a].mode.Type() != fs.ModeSymlink) - boolToInt(there[b].mode.Type() != fs.ModeSymlink)
	})
	for _, name := range old {
		if err := c.target.RemoveAll(name); err != nil {
			return err
		}
	}
	return nil
}

func boolToInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// besides is the name under which something is made before it gets its own: in the same folder, and hidden as
// kubelet's own temporary names are.
func besides(name string) string {
	dir, base := path.Split(name)
	return dir + ".." + strings.TrimLeft(base, ".") + "_tmp"
}
