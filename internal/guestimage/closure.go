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

// librarySource finds libraries by their name.
type librarySource interface {
	// library returns the file of that name for a program from the package
	// named, or an error that wraps fs.ErrNotExist.
	library(ctx context.Context, soname, forPackage string) (data []byte, fromPackage string, err error)
}

// elfFile is a program or library in the image, and the package it came from.
type elfFile struct {
	path    string
	data    []byte
	pkgName string
}

// addClosure puts the libraries that the programs need, and those that these
// need, into t, and the loader where the programs expect it.
func addClosure(ctx context.Context, t tree, programs []elfFile, src librarySource) error {
	queue := programs
	seen := map[string]bool{}
	for len(queue) > 0 {
		f := queue[0]
		queue = queue[1:]
		l, err := readLinkage(f.data)
		if err != nil {
			return fmt.Errorf("libraries of %s: %w", f.path, err)
		}
		if l.interp != "" {
			// The loader is a library too; the well-known path is a link to it.
			l.needed = append(l.needed, path.Base(l.interp))
			if real := "/" + guestLibDir + "/" + path.Base(l.interp); clean(l.interp) != clean(real) {
				if err := t.link(l.interp, real); err != nil {
					return err
				}
			}
		}
		for _, name := range l.needed {
			if seen[name] {
				continue
			}
			seen[name] = true
			data, pkgName, err := src.library(ctx, name, f.pkgName)
			if err != nil {
				return fmt.Errorf("library %s, needed by %s: %w", name, f.path, err)
			}
			lib := elfFile{path: "/" + guestLibDir + "/" + name, data: data, pkgName: pkgName}
			if err := t.file(lib.path, 0o755, data); err != nil {
				return err
			}
			queue = append(queue, lib)
		}
	}
	return nil
}

// readInRoot reads a file of an unpacked package, following links as if root
// were /.
func readInRoot(root, p string) ([]byte, error) {
	for range 16 {
		full := filepath.Join(root, path.Join("/", p))
		fi, err := os.Lstat(full)
		if err != nil {
			return nil, err
		}
		if fi.Mode()&fs.ModeSymlink == 0 {
			return os.ReadFile(full)
		}
		target, err := os.Readlink(full)
		if err != nil {
			return nil, err
		}
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(path.Join("/", p)), target)
		}
		p = target
	}
	return nil, fmt.Errorf("%s: too many links", p)
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
