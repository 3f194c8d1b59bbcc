package directvolume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"

	"golang.org/x/sys/unix"
)

// What a record speaks of, a machine that is to have a device, does not outlive the host's boot, and on a tmpfs no
// record does. Where the record root is on a disk a power cut leaves what it likes of the records: those before, those
// after, and those that have been removed. So a record can say of which boot it is, and whoever keeps records removes
// those of other boots when it starts. For that nobody has to wait for the disk when a record comes or goes.

const bootIDPath = "/proc/sys/kernel/random/boot_id"

// BootID returns what the kernel calls this boot of the host; in containers, too.
func BootID() (string, error) {
	id, err := os.ReadFile(bootIDPath)
	if err != nil {
		return "", fmt.Errorf("read the boot id: %w", err)
	}
	return string(bytes.TrimSpace(id)), nil
}

// WithBootID makes Add note in each record that it is of this boot (MetadataBootID).
func WithBootID(id string) StoreOption {
	return func(s *Store) { s.bootID = id }
}

// stamp notes the boot, if the store has one, in a record of its own.
func (s *Store) stamp(r Record) Record {
	if s.bootID == "" {
		return r
	}
	r.Metadata = maps.Clone(r.Metadata)
	if r.Metadata == nil {
		r.Metadata = map[string]string{}
	}
	r.Metadata[MetadataBootID] = s.bootID
	return r
}

func (s *Store) isOfEarlierBoot(r Record) bool {
	boot := r.Metadata[MetadataBootID]
	return boot != "" && s.bootID != "" && boot != s.bootID
}

// RemoveEarlierBoots removes the records that say they are of another boot, whoever wrote them, and returns what they
// were for. Records that do not say it are left alone, and so are all if the Store was not made WithBootID. What killed
// processes have left in the making goes too.
func (s *Store) RemoveEarlierBoots(ctx context.Context) (volumePaths []string, err error) {
	root, err := openRoot(s.root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer root.close()
	s.sweepOnce(root)
	old, err := s.Matching(ctx, s.isOfEarlierBoot)
	if err != nil || len(old) == 0 {
		return nil, err
	}
	var errs []error
	for _, entry := range old {
		switch removed, err := s.removeEarlier(ctx, root, entry); {
		case err != nil && !errors.Is(err, ErrNotFound):
			errs = append(errs, fmt.Errorf("remove the record of %s, of an earlier boot: %w", entry.VolumePath, err))
		case removed:
			volumePaths = append(volumePaths, entry.VolumePath)
		}
	}
	return volumePaths, errors.Join(append(errs, root.unlinkDangling())...)
}

// removeEarlier looks again when nobody else can replace the record any more.
func (s *Store) removeEarlier(ctx context.Context, root *rootDir, entry Entry) (removed bool, err error) {
	f, err := root.lock(ctx, entry.Name)
	if err != nil {
		return false, err
	}
	defer f.close()
	if record, err := f.read(); err != nil || !s.isOfEarlierBoot(record) {
		return false, err
	}
	return true, s.discard(root, f, entry.VolumePath)
}

// unlinkDangling removes the aliases that lead to no record.
func (r *rootDir) unlinkDangling() error {
	names, err := r.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		target := aliasTarget(r, name)
		if target == "" {
			continue
		}
		if there, err := r.has(target); err != nil || there {
			continue
		}
		if err := unix.Unlinkat(r.fd(), name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove alias: %w", err)
		}
	}
	return nil
}
