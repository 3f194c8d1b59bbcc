package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/filesystem"
	"github.com/katadirect/katadirect/internal/rollback"
	"github.com/katadirect/katadirect/pkg/agent/module"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

// directoryOptions are options that Kata's shims put among the mount options
// of folders, and that no mount takes.
type directoryOptions struct {
	mode *uint32 // "mode=0777"; of local folders only
	gid  *int    // "fsgid=1000"
}

// take reads its own options and returns the others.
func (d *directoryOptions) take(options []string) (others []string, err error) {
	for _, option := range options {
		key, value, _ := strings.Cut(option, "=")
		switch key {
		case "fsgid":
			gid, err := strconv.ParseUint(value, 10, 31)
			if err != nil {
				return nil, fmt.Errorf("%w: option %q", ErrRequest, option)
			}
			number := int(gid)
			d.gid = &number
		case "mode":
			mode, err := strconv.ParseUint(value, 8, 12)
			if err != nil {
				return nil, fmt.Errorf("%w: option %q", ErrRequest, option)
			}
			number := uint32(mode)
			d.mode = &number
			others = append(others, option) // tmpfs has an option of that name
		default:
			others = append(others, option)
		}
	}
	return others, nil
}

// apply gives a folder the group and the mode that were asked for.
func (d directoryOptions) apply(path string) error {
	mode := uint32(0)
	if d.mode != nil {
		mode = *d.mode
	}
	if d.gid != nil {
		if err := os.Chown(path, -1, *d.gid); err != nil {
			return err
		}
		if d.mode == nil {
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			mode = uint32(info.Mode().Perm())
		}
		mode |= unix.S_ISGID
	}
	if mode == 0 {
		return nil
	}
	// Not os.Chmod: it has other bits for set-group-id, and the process's
	// umask has no say in either.
	return unix.Chmod(path, mode)
}

// mountEphemeral mounts memory: tmpfs, or huge pages.
func mountEphemeral(ctx context.Context, r request) (err error) {
	var undo rollback.Stack
	defer undo.OnError(ctx, &err)

	fstype := r.fstype
	if fstype == "" {
		fstype = "tmpfs"
	}
	if fstype != "tmpfs" && fstype != "hugetlbfs" {
		return fmt.Errorf("%w: ephemeral storage of type %q", ErrRequest, fstype)
	}
	if fstype == "hugetlbfs" {
		if err := reserveHugePages(&undo, r.mount.Data); err != nil {
			return err
		}
	}
	if err := filesystem.Mount(r.source, r.mountPoint, fstype, r.mount); err != nil {
		removeMountPoint(r.mountPoint)
		return err
	}
	if err := r.directory.apply(r.mountPoint); err != nil {
		return errors.Join(err, filesystem.Unmount(r.mountPoint))
	}
	return nil
}

// makeLocal makes a folder on the guest's own root.
func makeLocal(r request) error {
	if err := os.MkdirAll(r.mountPoint, 0o755); err != nil {
		return err
	}
	return r.directory.apply(r.mountPoint)
}

// mountShare mounts a folder of the host's, by the tag that the machine gave
// it.
func (m *Mounts) mountShare(r request) error {
	if err := m.Modules.LoadModule(module.VirtioFS); err != nil {
		return err
	}
	if err := filesystem.Mount(r.source, r.mountPoint, "virtiofs", r.mount); err != nil {
		removeMountPoint(r.mountPoint)
		return err
	}
	return nil
}

// mountBind makes something in the guest visible at one more place.
func mountBind(r request) error {
	info, err := os.Stat(r.source)
	if err != nil {
		return err
	}
	if err := makeTarget(r.mountPoint, info.IsDir()); err != nil {
		return err
	}
	r.mount.Recursive = true
	if err := filesystem.Bind(r.source, r.mountPoint, r.mount); err != nil {
		removeMountPoint(r.mountPoint)
		return err
	}
	return nil
}

// makeTarget makes what a bind mount needs to stand on.
func makeTarget(path string, isDir bool) error {
	if isDir {
		return os.MkdirAll(path, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// mountOverlay mounts layers that are in the guest already.
func (m *Mounts) mountOverlay(r request) error {
	if err := m.Modules.LoadModule(module.Overlay); err != nil {
		return err
	}
	if err := filesystem.Mount("overlay", r.mountPoint, "overlay", r.mount); err != nil {
		removeMountPoint(r.mountPoint)
		return err
	}
	return nil
}

// removeMountPoint removes an empty folder that nothing is mounted on. What is
// in the way stays.
func removeMountPoint(path string) { _ = unix.Rmdir(path) }

// Remount gives a folder in memory that is mounted already other options, such
// as another size after the machine was given more memory.
func (m *Mounts) Remount(ctx context.Context, s *agentproto.Storage) error {
	r, err := parse(s)
	if err != nil {
		return err
	}
	if r.driver != "ephemeral" {
		return fmt.Errorf("%w: %q cannot be changed", ErrDriver, r.driver)
	}
	e, err := m.acquire(ctx, r.mountPoint)
	if err != nil {
		return err
	}
	defer e.release()
	if e.users == 0 {
		return fmt.Errorf("%s: %w", r.mountPoint, ErrNotMounted)
	}
	return filesystem.Remount(r.mountPoint, r.mount)
}
