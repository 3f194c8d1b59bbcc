package nodeinstall

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"github.com/katadirect/katadirect/internal/nodeinstall/criconf"
)

// edit is one configuration file that changes. An empty text is no file.
type edit struct {
	path          string
	before, after string
	mode          os.FileMode
	// backup, if not "", is a person's text without anything of ours, to be kept beside the file.
	backup string
}

// backupSuffix ends the name of the copy of a file as it was before this program first changed it.
const backupSuffix = ".katadirect-backup"

func (e edit) change(n *node) Change {
	c := Change{Action: "edit", Path: e.path, Diff: diff(e.path, e.before, e.after)}
	switch "" {
	case e.before:
		c.Action = "create"
	case e.after:
		c.Action = "remove"
	}
	if e.backup != "" {
		c.Detail = "the file without this is kept in " + e.path + backupSuffix
	}
	c.do = func(context.Context) error { return n.apply(e) }
	return c
}

func (n *node) apply(e edit) error {
	if e.backup != "" {
		if err := n.root.WriteFile(e.path+backupSuffix, []byte(e.backup), e.mode); err != nil {
			return err
		}
	}
	return n.write(e.path, e.after, e.mode)
}

func (n *node) write(place, text string, mode os.FileMode) error {
	if text == "" {
		return n.root.Remove(place)
	}
	if err := n.root.MkdirAll(path.Dir(place), 0o755); err != nil {
		return err
	}
	return n.root.WriteFile(place, []byte(text), mode)
}

// takeBack gives the files their old texts, in reverse order.
func (n *node) takeBack(edits []edit) error {
	var errs []error
	for i := len(edits) - 1; i >= 0; i-- {
		errs = append(errs, n.write(edits[i].path, edits[i].before, edits[i].mode))
	}
	return errors.Join(errs...)
}

// read reads a configuration where the links at its end lead; "" is no file.
func (n *node) read(place string) (text, realPath string, mode os.FileMode, err error) {
	if realPath, err = n.root.Follow(place); err != nil {
		return "", "", 0, err
	}
	data, mode, err := n.root.ReadFile(realPath)
	if errors.Is(err, fs.ErrNotExist) {
		return "", realPath, 0o644, nil
	}
	return string(data), realPath, mode, err
}

// planEdits plans the change of the runtime's configuration: the handler in, or out.
func (n *node) planEdits(in bool, major int) ([]edit, error) {
	switch n.runtime.Kind {
	case Containerd:
		return n.planContainerd(in, major)
	case CRIO:
		return n.planCRIO(in)
	}
	return n.planRancher(in)
}

// one is the edits that change something.
func changed(edits ...edit) []edit {
	var out []edit
	for _, e := range edits {
		if e.before != e.after {
			out = append(out, e)
		}
	}
	return out
}

func (n *node) planContainerd(in bool, major int) ([]edit, error) {
	main := edit{}
	drop := edit{}
	var err error
	if main.before, main.path, main.mode, err = n.read(n.runtime.Config); err != nil {
		return nil, err
	}
	if drop.before, drop.path, drop.mode, err = n.read(n.runtime.DropIn); err != nil {
		return nil, err
	}
	c := criconf.Containerd{
		MainPath: n.runtime.Config, Main: main.before, DropInPath: n.runtime.DropIn, DropIn: drop.before, Major: major,
	}
	clean, err := c.Remove()
	if err != nil {
		return nil, err
	}
	if !in {
		main.after, drop.after = clean.Main, clean.DropIn
		return changed(main, drop), nil // the one that names the other first
	}
	if c.Imported, err = n.imported(main.before); err != nil {
		return nil, err
	}
	made, err := c.Add(n.handler())
	if err != nil {
		return nil, err
	}
	main.after, drop.after = made.Main, made.DropIn
	main.backup = clean.Main
	return changed(drop, main), nil
}

// imported reads what containerd's main configuration imports, but for our own file.
func (n *node) imported(text string) (map[string]string, error) {
	patterns, err := criconf.Imports(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", n.runtime.Config, err)
	}
	out := map[string]string{}
	for _, pattern := range patterns {
		if !path.IsAbs(pattern) {
			pattern = path.Join(path.Dir(n.runtime.Config), pattern)
		}
		files, err := n.root.Glob(pattern)
		if err != nil {
			return nil, refuse("%s imports %q: %v", n.runtime.Config, pattern, err)
		}
		for _, f := range files {
			if f == n.runtime.DropIn {
				continue
			}
			if out[f], _, _, err = n.read(f); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

func (n *node) planCRIO(in bool) ([]edit, error) {
	drop := edit{}
	var err error
	if drop.before, drop.path, drop.mode, err = n.read(n.runtime.DropIn); err != nil {
		return nil, err
	}
	if drop.before != "" && !criconf.IsMine([]byte(drop.before)) {
		return nil, refuse("%s is there and was not made by this program; move it away", n.runtime.DropIn)
	}
	if !in {
		return changed(drop), nil
	}
	files, err := n.root.Glob(path.Join(path.Dir(n.runtime.DropIn), "*"))
	if err != nil {
		return nil, err
	}
	texts := map[string]string{}
	for _, f := range append(files, n.runtime.Config) {
		if f == n.runtime.DropIn {
			continue
		}
		if texts[f], _, _, err = n.read(f); err != nil {
			return nil, err
		}
	}
	if err := criconf.CRIOFree(n.handler(), texts); err != nil {
		return nil, err
	}
	drop.after, err = criconf.CRIO(n.handler())
	return changed(drop), err
}
