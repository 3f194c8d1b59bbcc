package guestimage

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// guestLibDir is where the guest's loader looks without being told.
const guestLibDir = "usr/lib/x86_64-linux-gnu"

// libDirs are searched for libraries, in packages and on the host.
var libDirs = []string{guestLibDir, "lib/x86_64-linux-gnu", "usr/lib", "lib", "usr/lib64", "lib64"}

// linkage is what a program or library needs before it runs.
type linkage struct {
	interp string   // path of the loader, empty for a library or a static program
	needed []string // names of libraries (DT_NEEDED)
}

func readLinkage(b []byte) (linkage, error) {
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return linkage{}, err
	}
	var l linkage
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			if p.Filesz > 4096 {
				return linkage{}, errors.New("path of the loader is too long")
			}
			s := make([]byte, p.Filesz)
			if _, err := p.ReadAt(s, 0); err != nil {
				return linkage{}, fmt.Errorf("path of the loader: %w", err)
			}
			l.interp = strings.TrimRight(string(s), "\x00")
		}
	}
	if f.Section(".dynamic") == nil {
		return l, nil
	}
	l.needed, err = f.ImportedLibraries()
	return l, err
}

func isELF(b []byte) bool { return bytes.HasPrefix(b, []byte(elf.ELFMAG)) }

// want is a library by its name, and the package of what needs it.
type want struct{ soname, pkg string }

// librarySource finds libraries.
type librarySource interface {
	// prefetch is told what library will be asked for next.
	prefetch(ctx context.Context, wants []want) error
	// library returns a library and the package it came from.
	library(ctx context.Context, w want) (data []byte, fromPackage string, err error)
}

// elfFile is a program or library in the image, and the package it came from.
type elfFile struct {
	path string
	data []byte
	pkg  string
}

// addClosure puts the libraries that the programs need, and those that these
// need in turn, into t, and the loader where the programs expect it.
func addClosure(ctx context.Context, t tree, programs []elfFile, src librarySource) error {
	seen := map[string]bool{}
	for generation := programs; len(generation) > 0; {
		var wants []want
		for _, f := range generation {
			l, err := readLinkage(f.data)
			if err != nil {
				return fmt.Errorf("libraries of %s: %w", f.path, err)
			}
			if l.interp != "" {
				if err := t.linkLoader(l.interp); err != nil {
					return err
				}
				l.needed = append(l.needed, path.Base(l.interp))
			}
			for _, soname := range l.needed {
				if !seen[soname] {
					seen[soname] = true
					wants = append(wants, want{soname, f.pkg})
				}
			}
		}
		if err := src.prefetch(ctx, wants); err != nil {
			return err
		}
		generation = nil
		for _, w := range wants {
			data, pkg, err := src.library(ctx, w)
			if err != nil {
				return err
			}
			lib := elfFile{path: "/" + guestLibDir + "/" + w.soname, data: data, pkg: pkg}
			if err := t.file(lib.path, 0o755, data); err != nil {
				return err
			}
			generation = append(generation, lib)
		}
	}
	return nil
}

// linkLoader makes the path that programs name their loader by lead to the
// loader, which is kept among the libraries, being one of them.
func (t tree) linkLoader(interp string) error {
	loader := "/" + guestLibDir + "/" + path.Base(interp)
	if clean(interp) == clean(loader) {
		return nil
	}
	return t.link(interp, loader)
}

// readInRoot reads a file of an unpacked package, following links as if root
// were /.
func readInRoot(root, p string) ([]byte, error) {
	at := "/" // what is resolved so far, below root
	links := 0
	for rest := strings.Split(p, "/"); len(rest) > 0; {
		next := path.Join(at, rest[0]) // cannot climb above /
		rest = rest[1:]
		fi, err := os.Lstat(filepath.Join(root, next))
		if err != nil {
			return nil, err
		}
		if fi.Mode()&fs.ModeSymlink == 0 {
			at = next
			continue
		}
		if links++; links > 40 { // as many as Linux follows
			return nil, fmt.Errorf("%s: too many links", p)
		}
		target, err := os.Readlink(filepath.Join(root, next))
		if err != nil {
			return nil, err
		}
		if path.IsAbs(target) {
			at = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return os.ReadFile(filepath.Join(root, at))
}

// readMerged reads a file that a package may have with or without /usr in
// front: Debian 12's packages name some tools one way, later ones the other.
func readMerged(root, p string) ([]byte, error) {
	data, err := readInRoot(root, p)
	if !errors.Is(err, fs.ErrNotExist) {
		return data, err
	}
	other, had := strings.CutPrefix(p, "/usr")
	if !had {
		other = "/usr" + p
	}
	if data, otherErr := readInRoot(root, other); otherErr == nil {
		return data, nil
	}
	return nil, err
}

// findLibrary looks for a library in the usual folders below root.
func findLibrary(root, soname string) ([]byte, error) {
	if soname != path.Base(soname) {
		return nil, fmt.Errorf("library name %q is a path", soname)
	}
	for _, dir := range libDirs {
		data, err := readInRoot(root, path.Join(dir, soname))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return data, err
	}
	return nil, fs.ErrNotExist
}
