package guestimage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// debianLibraries finds libraries in the packages that the asking package
// depends on, downloading them as needed, and then on the host.
type debianLibraries struct {
	cache    *packageCache
	used     map[string]string // versions of the packages that gave something
	fromHost []string
}

// prefetch downloads, in one go, the packages that by Debian's naming hold
// what the files need. Its only purpose is speed: a wrong guess costs nothing.
func (d *debianLibraries) prefetch(ctx context.Context, wants []want) error {
	var names []string
	for _, w := range wants {
		name := libraryPackage(w.soname)
		if _, ok := d.cache.catalog[name]; ok && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return d.cache.fetch(ctx, names...)
}

// library finds one library: in the package that asks, in one that it depends
// on, or on the host.
func (d *debianLibraries) library(ctx context.Context, w want) (data []byte, fromPackage string, err error) {
	for _, name := range d.candidates(w) {
		root, err := d.cache.get(ctx, name)
		if err != nil {
			return nil, "", err
		}
		data, err := findLibrary(root, w.soname)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, "", err
		}
		d.used[name] = d.cache.catalog[name].Version
		return data, name, nil
	}
	if data, err = findLibrary("/", w.soname); err != nil {
		return nil, "", fmt.Errorf("library %s, needed by package %s: %w", w.soname, w.pkg, err)
	}
	d.fromHost = append(d.fromHost, w.soname)
	return data, w.pkg, nil
}

// candidates are the packages to look in, as far as apt can download them: the
// asking one itself, the one it depends on that has the library's name, and
// the other libraries it depends on.
func (d *debianLibraries) candidates(w want) []string {
	names := []string{w.pkg}
	deps := d.cache.catalog[w.pkg].Depends
	if byName := libraryPackage(w.soname); slices.Contains(deps, byName) {
		names = append(names, byName)
	}
	for _, n := range deps {
		if isLibrary(n) && !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return slices.DeleteFunc(names, func(n string) bool {
		_, known := d.cache.catalog[n]
		return !known
	})
}

// libraryPackage gives the package name that Debian's policy derives from a
// library's: libfoo.so.1 → libfoo1, libfoo2.so.1 → libfoo2-1.
func libraryPackage(soname string) string {
	base, version, ok := strings.Cut(path.Base(soname), ".so.")
	if !ok || base == "" {
		return ""
	}
	if last := base[len(base)-1]; last >= '0' && last <= '9' {
		base += "-"
	}
	return strings.ReplaceAll(strings.ToLower(base+version), "_", "-")
}
