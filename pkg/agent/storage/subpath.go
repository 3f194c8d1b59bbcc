package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/filesystem"
)

// DriverSubPath makes a part of a mounted volume visible at a mount point:
// what a container names as subPath. The source is the volume's mount point.
//
// The containers of the pod may have written to the volume, and a part that
// led out of it would give them the machine. So it is opened below the
// volume's root by the kernel (openat2 with RESOLVE_BENEATH), and what was
// opened is what is mounted.
const DriverSubPath = "katadirect.subpath"

// ErrSubPath is returned for a part of a volume that leads out of it, or that
// something else is in the place of.
var ErrSubPath = errors.New("this part of the volume cannot be mounted")

func (m *Mounts) mountSubPath(ctx context.Context, r request) error {
	if err := checkInside(r.inside); err != nil {
		return err
	}
	return m.whileMounted(ctx, r.source, func() error {
		part, err := openPart(r.source, r.inside)
		if err != nil {
			return fmt.Errorf("%q in the volume at %s: %w", r.inside, r.source, err)
		}
		defer part.Close()
		info, err := part.Stat()
		if err != nil {
			return err
		}
		if err := makeTarget(r.mountPoint, info.IsDir()); err != nil {
			return err
		}
		err = filesystem.Bind(fmt.Sprintf("/proc/self/fd/%d", part.Fd()), r.mountPoint, r.mount)
		if err != nil {
			_ = os.Remove(r.mountPoint) // it is empty
		}
		return err
	})
}

// whileMounted runs f while what is mounted at path, a volume or a folder in
// memory, stays so.
func (m *Mounts) whileMounted(ctx context.Context, path string, f func() error) error {
	m.mu.Lock()
	_, known := m.entries[path]
	m.mu.Unlock()
	if !known {
		return fmt.Errorf("%s: %w", path, ErrNotMounted)
	}
	e, err := m.acquire(ctx, path)
	if err != nil {
		return err
	}
	defer e.release()
	if e.users == 0 {
		return fmt.Errorf("%s: %w", path, ErrNotMounted)
	}
	return f()
}

func checkInside(inside string) error {
	clean := path.Clean(inside)
	if inside == "" || path.IsAbs(inside) || clean == ".." || strings.HasPrefix(clean, "../") || strings.Contains(inside, "\x00") {
		return fmt.Errorf("%w: part %q of a volume", ErrRequest, inside)
	}
	return nil
}

// openPart opens inside below root, and makes it a folder if there is nothing
// of that name.
func openPart(root, inside string) (*os.File, error) {
	dir, err := os.OpenFile(root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	part, err := openBeneath(dir, inside)
	if errors.Is(err, unix.ENOENT) {
		return makePart(dir, path.Clean(inside))
	}
	return part, err
}

// openBeneath follows links as long as they stay below dir. The descriptor is
// good for looking and mounting only.
func openBeneath(dir *os.File, name string) (*os.File, error) {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	// EAGAIN: something was renamed meanwhile, and the kernel cannot be sure.
	for range 100 {
		fd, err := unix.Openat2(int(dir.Fd()), name, &how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), name), nil
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EXDEV):
			return nil, fmt.Errorf("%w: a link leads out of the volume", ErrSubPath)
		case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
			return nil, fmt.Errorf("%w: %w", ErrSubPath, err)
		default:
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: it is being renamed all the time", ErrSubPath)
}

// makePart makes the folders that are missing. Each has the permissions of the
// volume's root folder, as those that kubelet makes have; the kernel hands the
// group on where the root says so.
func makePart(root *os.File, inside string) (*os.File, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &stat); err != nil {
		return nil, err
	}
	mode := stat.Mode & (unix.S_ISGID | 0o777)
	// The longest beginning that is there, which links may be a part of.
	there, missing := path.Dir(inside), []string{path.Base(inside)}
	parent, err := openBeneath(root, there)
	for errors.Is(err, unix.ENOENT) && there != "." {
		missing = append([]string{path.Base(there)}, missing...)
		there = path.Dir(there)
		parent, err = openBeneath(root, there)
	}
	for _, name := range missing {
		if err != nil {
			return nil, err
		}
		var child *os.File
		child, err = makeFolder(parent, name, mode)
		parent.Close()
		parent = child
	}
	return parent, err
}

// makeFolder makes one folder, or finds that somebody else just has. A link in
// its place, which leads nowhere, is refused.
func makeFolder(parent *os.File, name string, mode uint32) (*os.File, error) {
	made := true
	err := unix.Mkdirat(int(parent.Fd()), name, 0o700)
	if errors.Is(err, unix.EEXIST) {
		made, err = false, nil
	}
	if errors.Is(err, unix.EROFS) {
		return nil, fmt.Errorf("there is no %q, and it cannot be made: %w", name, ErrReadOnly)
	}
	if err != nil {
		return nil, fmt.Errorf("make folder %q: %w", name, err)
	}
	fd, err := unix.Openat(int(parent.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: folder %q: %w", ErrSubPath, name, err)
	}
	dir := os.NewFile(uintptr(fd), name)
	if made {
		// Not with mkdir: the process's umask would have a say.
		if err := unix.Fchmod(fd, mode); err != nil {
			return nil, errors.Join(err, dir.Close())
		}
	}
	return dir, nil
}
