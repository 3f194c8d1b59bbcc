package directvolume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// Claim gives the volume to a sandbox and returns its record. The claim is an empty file in the record folder with
// the sandbox's id as its name, as Kata's Go shim writes it. Claiming again for the same sandbox succeeds, so a pod's
// containers can share a volume. Claims of sandboxes that are gone are removed on the way.
//
// ErrClaimed: another living sandbox has the volume, under this path or under another one with the same device.
// ErrDevice: the device is gone, or is neither a block device nor a regular file. ErrNotFound, ErrInvalid: as Get.
//
// Whoever claims must hold the sandbox's lease, else the claim counts as left behind by a dead sandbox.
func (s *Store) Claim(ctx context.Context, volumePath, sandboxID string) (Record, error) {
	record, err := s.claim(ctx, volumePath, sandboxID)
	if err != nil {
		return Record{}, fmt.Errorf("claim %s for sandbox %s: %w", volumePath, sandboxID, err)
	}
	return record, nil
}

func (s *Store) claim(ctx context.Context, volumePath, sandboxID string) (Record, error) {
	if err := CheckSandboxID(sandboxID); err != nil {
		return Record{}, err
	}
	root, name, err := s.find(volumePath)
	if err != nil {
		return Record{}, err
	}
	defer root.close()
	f, err := root.lock(ctx, name)
	if err != nil {
		return Record{}, err
	}
	defer f.close()
	record, err := f.read()
	if err != nil {
		return Record{}, err
	}
	device, err := statDevice(record.Device)
	if err != nil {
		return Record{}, err
	}
	if err := s.evict(f, volumePath, sandboxID); err != nil {
		return Record{}, err
	}
	isNew, err := f.writeClaim(sandboxID)
	if err != nil {
		return Record{}, err
	}
	// The claim first, the look at the other records second: of two sandboxes that do this at once at least one sees
	// the other, whatever the order, and no lock over all records is needed.
	if err := s.checkDevice(ctx, root, name, device, sandboxID); err != nil {
		if isNew {
			err = errors.Join(err, f.removeClaim(sandboxID))
		}
		return Record{}, err
	}
	return record, nil
}

// evict removes the claims of dead sandboxes and refuses if another one lives.
func (s *Store) evict(f *folder, volumePath, sandboxID string) error {
	live, stale, err := s.sortClaims(f)
	if err != nil {
		return err
	}
	for _, id := range live {
		if id != sandboxID {
			return &ClaimedError{VolumePath: volumePath, Sandbox: id}
		}
	}
	for _, id := range stale {
		if id != sandboxID {
			if err := f.removeClaim(id); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkDevice refuses if a living sandbox has the same device through another record, whatever it is called there.
func (s *Store) checkDevice(ctx context.Context, root *rootDir, name string, device deviceID, sandboxID string) error {
	others, err := root.names()
	if err != nil {
		return err
	}
	for _, other := range others {
		if err := ctx.Err(); err != nil {
			return err
		}
		if other == name || aliasTarget(root, other) != "" {
			continue
		}
		entry := s.entry(ctx, root, other)
		for _, id := range entry.Sandboxes {
			if id == sandboxID {
				continue
			}
			if other, err := statDevice(entry.Record.Device); err == nil && other == device {
				return &ClaimedError{VolumePath: entry.VolumePath, Sandbox: id}
			}
		}
	}
	return nil
}

// deviceID is what a device is, whatever it is called: the number of a block device, or the inode of a file.
type deviceID struct{ dev, ino, rdev uint64 }

func statDevice(path string) (deviceID, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return deviceID{}, fmt.Errorf("%w: %w", ErrDevice, &fs.PathError{Op: "stat", Path: path, Err: err})
	}
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		return deviceID{rdev: stat.Rdev}, nil
	case unix.S_IFREG:
		return deviceID{dev: stat.Dev, ino: stat.Ino}, nil
	}
	return deviceID{}, fmt.Errorf("%w: %s is neither a block device nor a regular file", ErrDevice, path)
}

// writeClaim reports whether the claim was not there before.
func (f *folder) writeClaim(sandboxID string) (isNew bool, err error) {
	fd, err := unix.Openat(f.fd, sandboxID, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, fileMode)
	if errors.Is(err, unix.EEXIST) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("write claim: %w", err)
	}
	err = errors.Join(unix.Fchmod(fd, fileMode), unix.Close(fd)) // no sync: a claim is worth as much as its sandbox
	if err != nil {
		return true, errors.Join(fmt.Errorf("write claim: %w", err), f.removeClaim(sandboxID))
	}
	return true, nil
}

func (f *folder) removeClaim(sandboxID string) error {
	err := unix.Unlinkat(f.fd, sandboxID, 0)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove claim %s: %w", sandboxID, err)
	}
	return nil
}

// Release takes the claim of a sandbox back. Releasing what is not claimed, or has no record any more, succeeds.
// The guest must have let go of the device before.
func (s *Store) Release(ctx context.Context, volumePath, sandboxID string) error {
	if err := CheckSandboxID(sandboxID); err != nil {
		return err
	}
	root, name, err := s.find(volumePath)
	if err == nil {
		err = root.release(ctx, name, sandboxID)
		root.close()
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("release %s of sandbox %s: %w", volumePath, sandboxID, err)
	}
	return nil
}

func (r *rootDir) release(ctx context.Context, name, sandboxID string) error {
	f, err := r.lock(ctx, name)
	if err != nil {
		return err
	}
	defer f.close()
	return f.removeClaim(sandboxID)
}

// ReleaseAll takes back every claim of a sandbox whose machine is gone. It goes on past errors and returns them all.
func (s *Store) ReleaseAll(ctx context.Context, sandboxID string) error {
	if err := CheckSandboxID(sandboxID); err != nil {
		return err
	}
	root, err := openRoot(s.root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.close()
	names, err := root.names()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if aliasTarget(root, name) != "" || !root.hasClaim(name, sandboxID) {
			continue
		}
		if err := root.release(ctx, name, sandboxID); err != nil && !errors.Is(err, ErrNotFound) {
			errs = append(errs, fmt.Errorf("release record %s of sandbox %s: %w", name, sandboxID, err))
		}
	}
	return errors.Join(errs...)
}

// hasClaim looks without the lock, so that records that are none of the sandbox's business are not waited for.
func (r *rootDir) hasClaim(name, sandboxID string) bool {
	has, err := r.has(name + "/" + sandboxID)
	return has && err == nil
}
