package guestimage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"
)

// Take says what a root file system takes of one Debian package.
type Take struct {
	Package string
	// Files are copied to the same path. A tool may be named with or without /usr in front, as in the package or not.
	Files []string
	// Trees are folders, copied whole but for what begins with one of Except.
	Trees, Except []string
	// Links are made: path to target.
	Links map[string]string
}

// File is a file, folder or link of a root file system.
type File struct {
	Perm os.FileMode // permissions, with the sticky bit
	Data []byte      // of a file
	Link string      // target of a symbolic link, "" for everything else
	Dir  bool
}

// RootFS lays out a container's root file system: what is taken of the packages, and the libraries that the programs
// among it need, by paths without a leading slash. It also returns the versions of the packages that gave something.
// Packages are downloaded into cacheDir ("" is DefaultCacheDir) and not installed; progress hears what takes time.
func RootFS(ctx context.Context, cacheDir string, progress func(string), takes ...Take) (map[string]File, map[string]string, error) {
	o, err := Options{CacheDir: cacheDir, Progress: progress}.withDefaults()
	if err != nil {
		return nil, nil, err
	}
	if err := os.MkdirAll(o.CacheDir, 0o755); err != nil {
		return nil, nil, fmt.Errorf("folder of the package cache: %w", err)
	}
	unlock, err := lockDir(ctx, o.CacheDir)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	var names []string
	for _, t := range takes {
		names = append(names, t.Package)
	}
	known, err := askApt(ctx, names, o.Progress)
	if err != nil {
		return nil, nil, err
	}
	c := &collection{
		cache:    &packageCache{dir: filepath.Join(o.CacheDir, "packages"), catalog: known, progress: o.Progress},
		tree:     newTree(),
		manifest: Manifest{Packages: map[string]string{}},
	}
	if err := c.cache.fetch(ctx, names...); err != nil {
		return nil, nil, err
	}
	if err := c.take(ctx, takes); err != nil {
		return nil, nil, err
	}
	return c.tree.files(), c.manifest.Packages, nil
}

// take copies what is wanted and the libraries that it needs.
func (c *collection) take(ctx context.Context, takes []Take) error {
	var programs []elfFile
	for _, t := range takes {
		added, err := c.addTool(ctx, tool{pkg: t.Package, files: t.Files, links: t.Links})
		if err != nil {
			return fmt.Errorf("package %s: %w", t.Package, err)
		}
		programs = append(programs, added...)
		for _, dir := range t.Trees {
			added, err := c.addTree(t, dir)
			if err != nil {
				return fmt.Errorf("package %s: %w", t.Package, err)
			}
			programs = append(programs, added...)
		}
	}
	// What a package's own tree has as a library need not be looked for.
	libs := &debianLibraries{cache: c.cache, used: c.manifest.Packages}
	if err := addClosure(ctx, c.tree, programs, libs); err != nil {
		return err
	}
	if len(libs.fromHost) > 0 {
		return fmt.Errorf("%w: no package has %s", ErrNoPackage, strings.Join(libs.fromHost, ", "))
	}
	return nil
}

// addTree copies a folder of a package and returns the programs and libraries in it.
func (c *collection) addTree(t Take, dir string) (programs []elfFile, err error) {
	root := c.cache.root(c.cache.catalog[t.Package])
	err = filepath.WalkDir(filepath.Join(root, dir), func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		p := strings.TrimPrefix(file, root)
		if slices.ContainsFunc(t.Except, func(prefix string) bool { return strings.HasPrefix(p, prefix) }) {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		switch entry.Type() {
		case fs.ModeDir:
			return nil // made by what is in it
		case fs.ModeSymlink:
			target, err := os.Readlink(file)
			return errors.Join(err, c.tree.link(p, target))
		case 0:
			data, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			info, err := entry.Info()
			if err != nil {
				return err
			}
			if isELF(data) && path.Ext(p) != ".o" {
				programs = append(programs, elfFile{path: p, data: data, pkg: t.Package})
			}
			return c.tree.file(p, uint64(info.Mode().Perm()), data)
		}
		return fmt.Errorf("%s is neither file nor folder nor link", p)
	})
	return programs, err
}

// files is the tree in the words of others.
func (t tree) files() map[string]File {
	all := map[string]File{}
	for p, n := range maps.All(t) {
		f := File{Perm: os.FileMode(n.mode & 0o777)}
		switch n.mode & cpio.S_IFMT {
		case cpio.S_IFLNK:
			f.Link = string(n.data)
		case cpio.S_IFDIR:
			f.Dir = true
			if n.mode&0o1000 != 0 {
				f.Perm |= os.ModeSticky
			}
		default:
			f.Data = n.data
		}
		all[p] = f
	}
	return all
}
