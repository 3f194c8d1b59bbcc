package directvolume

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// tempPrefix begins the names of folders in the making or on their way out. No record's name begins so: base64url
// has no dot.
const tempPrefix = ".tmp-"

func tempName() string { return tempPrefix + rand.Text() }

// Add writes the record of a path. Whoever looks, at any instant and after any crash, sees the record before, the
// record after or none, and never a part of one. After a power cut it can be any of the three: see WithBootID.
//
// A record that stands there is replaced, whatever is wrong with it, unless a living sandbox claims it; even then if
// Device stays the same, because a volume may grow while it is in use. Otherwise the error is ErrClaimed.
// ErrInvalid and ErrInvalidKey say what is wrong with the arguments; nothing has been written then.
func (s *Store) Add(ctx context.Context, volumePath string, r Record) error {
	if err := s.add(ctx, volumePath, r); err != nil {
		return fmt.Errorf("add the record of %s: %w", volumePath, err)
	}
	return nil
}

func (s *Store) add(ctx context.Context, volumePath string, r Record) error {
	names, err := namesFor(volumePath)
	if err != nil {
		return err
	}
	data, err := s.stamp(r).marshal()
	if err != nil {
		return err
	}
	root, err := makeRoot(s.root)
	if err != nil {
		return err
	}
	defer root.close()
	s.sweepOnce(root)

	made, err := root.makeTemp(ctx, data)
	if err != nil {
		return err
	}
	defer made.close()
	// After a successful Add the temporary name stands for nothing, or for what the record replaced.
	temp := made.name
	err = s.place(ctx, root, made, names.resolved, r.Device, volumePath)
	err = errors.Join(err, root.removeAll(temp))
	if err == nil {
		err = linkAlias(root, names)
	}
	return err
}

// makeTemp makes a whole record folder under a temporary name. It is locked, so that sweep keeps off.
func (r *rootDir) makeTemp(ctx context.Context, data []byte) (*folder, error) {
	for {
		name := tempName()
		if err := unix.Mkdirat(r.fd(), name, dirMode); err != nil {
			return nil, fmt.Errorf("make record folder: %w", err)
		}
		f, err := r.lock(ctx, name)
		if errors.Is(err, ErrNotFound) {
			continue // swept before it was locked
		}
		if err == nil {
			if err = f.fill(data); err == nil {
				return f, nil
			}
			f.close()
		}
		return nil, errors.Join(err, r.removeAll(name))
	}
}

// fill writes mountInfo.json into a new folder, with the exact modes whatever the umask is. File and folder are on the
// disk before the folder gets a record's name, so that not even a power cut leaves an empty or torn record. That the
// name is there after a power cut is not waited for, and neither is that it is gone: see boot.go.
func (f *folder) fill(data []byte) error {
	if err := unix.Fchmod(f.fd, dirMode); err != nil { // before the sync: a change after it would cost another
		return fmt.Errorf("write record folder: %w", err)
	}
	fd, err := unix.Openat(f.fd, recordName, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, fileMode)
	if err != nil {
		return fmt.Errorf("create %s: %w", recordName, err)
	}
	file := os.NewFile(uintptr(fd), recordName)
	_, err = file.Write(data)
	err = errors.Join(err, file.Chmod(fileMode), file.Sync(), file.Close())
	if err != nil {
		return fmt.Errorf("write %s: %w", recordName, err)
	}
	if err := unix.Fsync(f.fd); err != nil {
		return fmt.Errorf("sync record folder: %w", err)
	}
	return nil
}

// makeRoot opens the record root, which is there but for the first time.
func makeRoot(path string) (*rootDir, error) {
	root, err := openRoot(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return root, err
	}
	if err := os.MkdirAll(path, dirMode); err != nil {
		return nil, fmt.Errorf("make record root: %w", err)
	}
	return openRoot(path)
}

// place puts the new folder where the record belongs.
func (s *Store) place(ctx context.Context, root *rootDir, made *folder, name, device, volumePath string) error {
	for {
		err := unix.Renameat2(root.fd(), made.name, root.fd(), name, unix.RENAME_NOREPLACE)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("rename record folder: %w", err)
		}
		err = s.replace(ctx, root, made, name, device, volumePath)
		if !errors.Is(err, ErrNotFound) {
			return err
		}
		// Removed between the two looks: it can be renamed in after all.
	}
}

// replace puts the new record where one stands already. ErrNotFound says that it no longer does.
func (s *Store) replace(ctx context.Context, root *rootDir, made *folder, name, device, volumePath string) error {
	old, err := root.lock(ctx, name)
	if errors.Is(err, ErrInvalid) {
		return root.exchange(made.name, name) // a file or a link: nobody can claim that
	}
	if err != nil {
		return err
	}
	defer old.close()
	live, _, err := s.sortClaims(old)
	if err != nil {
		return err
	}
	if len(live) == 0 {
		return root.exchange(made.name, name)
	}
	if current, err := old.read(); err != nil || current.Device != device {
		return &ClaimedError{VolumePath: volumePath, Sandbox: live[0]}
	}
	// The claims have to stay where they are, so the file goes to them.
	if err := unix.Renameat(made.fd, recordName, old.fd, recordName); err != nil {
		return fmt.Errorf("replace %s: %w", recordName, err)
	}
	return nil
}

// exchange swaps two names in one step, so that the record is never absent: Kata's runtimes would share the folder
// of a container that starts in that instant.
func (r *rootDir) exchange(a, b string) error {
	err := unix.Renameat2(r.fd(), a, r.fd(), b, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.ENOENT) {
		return ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("exchange record folders: %w", err)
	}
	return nil
}

// Remove removes the record of a path, with everything in its folder. Removing what is not there succeeds. While a
// living sandbox claims the volume the error is ErrClaimed and the record stays.
func (s *Store) Remove(ctx context.Context, volumePath string) error {
	if err := s.remove(ctx, volumePath); err != nil {
		return fmt.Errorf("remove the record of %s: %w", volumePath, err)
	}
	return nil
}

func (s *Store) remove(ctx context.Context, volumePath string) error {
	names, err := namesFor(volumePath)
	if err != nil {
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
	s.sweepOnce(root)
	for _, name := range root.candidates(names) {
		if err := s.removeName(ctx, root, name, volumePath); err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	return unlinkAlias(root, names)
}

func (s *Store) removeName(ctx context.Context, root *rootDir, name, volumePath string) error {
	f, err := root.lock(ctx, name)
	if errors.Is(err, ErrInvalid) {
		return root.removeAll(name) // a file or a link
	}
	if err != nil {
		return err
	}
	defer f.close()
	return s.discard(root, f, volumePath)
}

// discard removes a record whose folder is locked, unless it is claimed.
func (s *Store) discard(root *rootDir, f *folder, volumePath string) error {
	live, stale, err := s.sortClaims(f)
	if err != nil {
		return err
	}
	if len(live) > 0 {
		return &ClaimedError{VolumePath: volumePath, Sandbox: live[0]}
	}
	// Out of sight in one step, then away: nobody sees a folder without its record.
	temp := tempName()
	if err := unix.Renameat(root.fd(), f.name, root.fd(), temp); err != nil {
		return fmt.Errorf("rename record folder: %w", err)
	}
	return s.dispose(root, f, temp, append(stale, recordName))
}

func (r *rootDir) removeAll(name string) error {
	if err := removeTree(r.fd(), name); err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

// removeTree removes a name with everything below it. What is not there is a success.
func removeTree(dir int, name string) error {
	err := unix.Unlinkat(dir, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) {
		return err
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	names, err := readNames(fd)
	if err != nil {
		return err
	}
	for _, below := range names {
		if err := removeTree(fd, below); err != nil {
			return err
		}
	}
	if err := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

// sweepOnce removes what killed processes left in the making. Once per Store is enough for that, and keeps Add from
// reading the whole root each time.
func (s *Store) sweepOnce(root *rootDir) {
	s.swept.Do(func() {
		names, err := root.names()
		if err != nil {
			return // the operation itself will say it
		}
		for _, name := range names {
			root.sweep(name)
		}
	})
}

// sweep removes a temporary name unless its maker lives, which its lock shows. Failing is fine: the next one tries.
func (r *rootDir) sweep(name string) {
	if !strings.HasPrefix(name, tempPrefix) {
		return
	}
	f, err := r.open(name)
	if errors.Is(err, ErrInvalid) {
		unix.Unlinkat(r.fd(), name, 0) // an alias in the making
		return
	}
	if err != nil {
		return
	}
	defer f.close()
	if unix.Flock(f.fd, unix.LOCK_EX|unix.LOCK_NB) == nil {
		removeTree(r.fd(), name)
	}
}
