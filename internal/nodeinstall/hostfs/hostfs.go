// Package hostfs reads and changes the files of a host whose root is mounted somewhere, as a container of a DaemonSet
// has it. Paths are the host's own. Every one is resolved by openat2 with RESOLVE_IN_ROOT: symbolic links of the host,
// absolute ones too, lead where they lead on the host, and nothing leads out of it.
//
// Changes are durable when a method returns, and each is there whole or not at all: temporary file, fsync, rename,
// fsync of the folder. What the files mean is the business of the callers.
package hostfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// TempPrefix is how the names of temporary files begin. Whoever owns a folder may remove what a crash has left.
const TempPrefix = ".katadirect-tmp-"

// ErrLink is returned for a symbolic link where a file of this program's own has to be.
var ErrLink = errors.New("is a symbolic link or no regular file")

// Root is a host's root folder.
type Root struct {
	dir *os.File
	// Step, if not nil, is called before and after every change of the host. Tests crash there.
	Step func(what string)
}

// Open opens the folder that the host's root is mounted at; "/" is the host that the program runs on.
func Open(dir string) (*Root, error) {
	f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("open the host's root: %w", err)
	}
	return &Root{dir: f}, nil
}

// Close closes it.
func (r *Root) Close() error { return r.dir.Close() }

// Path is where a path of the host is found by programs that do not go through this package, sockets for instance.
func (r *Root) Path(hostPath string) string { return path.Join(r.dir.Name(), hostPath) }

// IsHost reports whether the host is the one that the program runs on.
func (r *Root) IsHost() bool { return r.dir.Name() == "/" }

func (r *Root) step(what, hostPath string) {
	if r.Step != nil {
		r.Step(what + " " + hostPath)
	}
}

func (r *Root) openat2(hostPath string, flags int, mode uint32) (*os.File, error) {
	how := unix.OpenHow{
		Flags: uint64(flags | unix.O_CLOEXEC), Mode: uint64(mode),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(int(r.dir.Fd()), hostPath, &how)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue // something was renamed on the way
		}
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: hostPath, Err: err}
		}
		return os.NewFile(uintptr(fd), hostPath), nil
	}
}

// parent opens the folder that a path is in, and returns the last part of the path.
func (r *Root) parent(hostPath string) (*os.File, string, error) {
	clean := path.Clean(hostPath)
	if !path.IsAbs(clean) || clean == "/" {
		return nil, "", &fs.PathError{Op: "open", Path: hostPath, Err: errors.New("not an absolute path of a file")}
	}
	dir, err := r.openat2(path.Dir(clean), unix.O_PATH|unix.O_DIRECTORY, 0)
	return dir, path.Base(clean), err
}

// Stat follows links.
func (r *Root) Stat(hostPath string) (fs.FileInfo, error) {
	f, err := r.openat2(hostPath, unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Stat()
}

// Exists reports whether a path leads to something.
func (r *Root) Exists(hostPath string) bool {
	_, err := r.Stat(hostPath)
	return err == nil
}

// Executable reports whether a path leads to a program.
func (r *Root) Executable(hostPath string) bool {
	info, err := r.Stat(hostPath)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// Readlink returns what a link says, and fs.ErrNotExist for none. Anything else there is an ErrLink.
func (r *Root) Readlink(hostPath string) (string, error) {
	dir, name, err := r.parent(hostPath)
	if err != nil {
		return "", err
	}
	defer dir.Close()
	target, err := readlinkat(dir, name)
	if errors.Is(err, unix.EINVAL) {
		return "", fmt.Errorf("%s is no symbolic link: %w", hostPath, ErrLink)
	}
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: hostPath, Err: err}
	}
	return target, nil
}

func readlinkat(dir *os.File, name string) (string, error) {
	buffer := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(dir.Fd()), name, buffer)
	if err != nil {
		return "", err
	}
	return string(buffer[:n]), nil
}

// Follow returns the path that a file has when the links at its end are followed: the place to write to, so that a
// link that somebody has made stays one. The file itself need not be there.
func (r *Root) Follow(hostPath string) (string, error) {
	const enough = 16
	for range enough {
		target, err := r.Readlink(hostPath)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrLink) {
			return path.Clean(hostPath), nil
		}
		if err != nil {
			return "", err
		}
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(hostPath), target)
		}
		hostPath = target
	}
	return "", &fs.PathError{Op: "follow", Path: hostPath, Err: unix.ELOOP}
}

// ReadDir lists the names in a folder; none for a folder that is not there.
func (r *Root) ReadDir(hostPath string) ([]fs.DirEntry, error) {
	dir, err := r.openat2(hostPath, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.ReadDir(-1)
}

// Glob lists the files whose name matches the last part of a pattern. Patterns in folders' names are not resolved.
func (r *Root) Glob(pattern string) ([]string, error) {
	if strings.ContainsAny(path.Dir(pattern), "*?[") {
		return nil, fmt.Errorf("pattern %q: only the last part of a path may have wildcards here", pattern)
	}
	entries, err := r.ReadDir(path.Dir(pattern))
	if err != nil {
		return nil, err
	}
	var found []string
	for _, e := range entries {
		matches, err := path.Match(path.Base(pattern), e.Name())
		if err != nil {
			return nil, fmt.Errorf("pattern %q: %w", pattern, err)
		}
		if matches {
			found = append(found, path.Join(path.Dir(pattern), e.Name()))
		}
	}
	return found, nil
}
