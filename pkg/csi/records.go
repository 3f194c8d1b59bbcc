package csi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/csi/pool"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// publication is one record of a volume: where it is published, and who has it.
type publication struct {
	path      string // the target path without symbolic links
	record    directvolume.Record
	sandboxes []string // living ones that claim it
	dead      []string // sandboxes that claim it and have ended
}

// records finds and writes the records of this driver's volumes.
type records struct {
	store *directvolume.Store
}

// openRecords finds the records that the driver before this one has left. Those of an earlier boot speak of machines that
// are gone; kubelet publishes anew what is still wanted.
func openRecords(ctx context.Context, c Config) (records, error) {
	boot, err := directvolume.BootID()
	if err != nil {
		return records{}, err
	}
	store := directvolume.NewStore(c.RecordRoot, directvolume.WithSandboxes(c.Sandboxes), directvolume.WithBootID(boot), directvolume.WithBackground())
	removed, err := store.RemoveEarlierBoots(ctx)
	if len(removed) > 0 {
		c.Log.InfoContext(ctx, "removed the records of an earlier boot", "paths", removed)
	}
	if err != nil { // each call that meets one of them will say so again
		c.Log.WarnContext(ctx, "could not remove the records of an earlier boot", "error", err)
	}
	return records{store}, nil
}

// of returns the publications of a volume, wherever they are. A record that names the volume's image counts,
// whoever wrote it.
func (r records) of(ctx context.Context, v pool.Volume) ([]publication, error) {
	entries, err := r.store.Matching(ctx, func(record directvolume.Record) bool {
		return record.Metadata[directvolume.MetadataVolumeID] == v.ID || record.Device == v.ImagePath
	})
	if err != nil {
		return nil, fmt.Errorf("look for records: %w", err)
	}
	slices.SortFunc(entries, func(a, b directvolume.Entry) int { return cmp.Compare(a.VolumePath, b.VolumePath) })
	var found []publication
	for _, e := range entries {
		found = append(found, publication{path: e.VolumePath, record: e.Record, sandboxes: e.Sandboxes})
	}
	return found, nil
}

// at returns the record at a target path if it is one of the volume's, and ErrNotPublished if there is none or it is
// another volume's.
func (r records) at(ctx context.Context, targetPath, volumeID string) (directvolume.Record, error) {
	record, err := r.store.Get(ctx, targetPath)
	if errors.Is(err, directvolume.ErrNotFound) {
		return directvolume.Record{}, failf(ErrNotPublished, "volume %s is not published at %s", volumeID, targetPath)
	}
	if err != nil {
		return directvolume.Record{}, err
	}
	if id := record.Metadata[directvolume.MetadataVolumeID]; id != volumeID {
		return directvolume.Record{}, failf(ErrNotPublished, "volume %s is not published at %s, volume %q is",
			volumeID, targetPath, id)
	}
	return record, nil
}

// newRecord says how the guest shall mount the volume.
func newRecord(v pool.Volume, a access, readOnly bool) directvolume.Record {
	r := directvolume.Record{
		VolumeType: directvolume.VolumeTypeDirect,
		Device:     v.ImagePath,
		FSType:     v.FSType,
		Options:    slices.Clone(a.options),
		Metadata: map[string]string{
			directvolume.MetadataVolumeID:  v.ID,
			directvolume.MetadataSizeBytes: strconv.FormatInt(v.SizeBytes, 10),
			directvolume.MetadataBacking:   directvolume.BackingFile,
		},
	}
	if readOnly {
		if !slices.Contains(r.Options, "ro") {
			r.Options = append(r.Options, "ro")
		}
	} else {
		// The guest cannot format what it may not write.
		r.Metadata[directvolume.MetadataFormat] = directvolume.FormatIfBlank
		if chosen := v.Parameters[parameterMkfsOptions]; chosen != "" {
			r.Metadata[directvolume.MetadataMkfsOptions] = chosen
		}
	}
	if a.selinuxLabel != "" {
		r.Metadata[directvolume.MetadataSELinuxLabel] = a.selinuxLabel
	}
	// Kata's runtimes fail a container for group 0, and files made by root have it anyway.
	if a.fsGroup != 0 {
		r.Metadata[directvolume.MetadataFSGroup] = strconv.FormatUint(uint64(a.fsGroup), 10)
	}
	return r
}

// sameMount reports whether two records of one volume make the guest mount it in the same way. The size does not
// count: it changes while the volume is published.
func sameMount(a, b directvolume.Record) bool {
	return a.Device == b.Device && a.FSType == b.FSType && slices.Equal(a.Options, b.Options) &&
		a.Metadata[directvolume.MetadataFSGroup] == b.Metadata[directvolume.MetadataFSGroup] &&
		a.Metadata[directvolume.MetadataSELinuxLabel] == b.Metadata[directvolume.MetadataSELinuxLabel]
}

// realPath resolves symbolic links in the folder that path is in, as the store does. The path itself may not exist.
func realPath(path string) (string, error) {
	parent := filepath.Dir(path)
	if hasNoLinks(parent) {
		return filepath.Join(parent, filepath.Base(path)), nil
	}
	parent, err := filepath.EvalSymlinks(parent)
	if err != nil {
		return "", err
	}
	return filepath.Join(parent, filepath.Base(path)), nil
}

// hasNoLinks is the kernel's word in two system calls, where EvalSymlinks needs one for each folder on the way.
func hasNoLinks(path string) bool {
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return false // EvalSymlinks finds out why
	}
	unix.Close(fd)
	return true
}
