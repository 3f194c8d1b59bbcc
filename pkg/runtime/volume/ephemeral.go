package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

// imageName is the file in an emptyDir's folder that is its disk; Kata's name.
const imageName = "disk.img"

// Options of the Storage of a block emptyDir.
const (
	// optionCreateFilesystem is Kata's: a file system without a journal, at every mount. As it is mounted once in a
	// sandbox's life, that is once.
	optionCreateFilesystem = "create_filesystem"
	// optionRootMode is ours: what the root folder of a file system that was just made allows.
	optionRootMode = "katadirect.io/root-mode="
)

// imageMark is the extended attribute by which an image is known as one that was made here. A pod may have had the folder
// itself before, and a file of that name in it.
const imageMark = "trusted.katadirect.emptydir"

// ErrNotEmpty says that an emptyDir has files in its folder. A disk in its place would hide them.
var ErrNotEmpty = errors.New("there are files in the folder already")

// maxFolders bounds the look for files; kubelet makes a folder for each subPath.
const maxFolders = 1000

// maxImageBytes is below the largest file that an ext4 can hold, of whatever size itself.
const maxImageBytes = 8 << 40

// MakeEphemeral puts a disk behind the folder of an emptyDir: a sparse image as large as the file system it lies in,
// and a record that makes Attach take the folder for a direct volume. What an earlier sandbox left there is replaced.
// The permissions and the group of the folder become those of the file system's root. A folder for which another volume
// is recorded stays as it is.
//
// ErrNotEmpty, or directvolume.ErrClaimed: another sandbox lives on it.
func (s *Set) MakeEphemeral(ctx context.Context, dir string) error {
	if err := s.changing.Acquire(ctx, 1); err != nil {
		return err
	}
	defer s.changing.Release(1)
	if err := s.makeEphemeral(ctx, dir); err != nil {
		return fmt.Errorf("emptyDir %s: %w", dir, err)
	}
	return nil
}

func (s *Set) makeEphemeral(ctx context.Context, dir string) error {
	if other, err := ofAnother(ctx, s.Records, dir); other || err != nil {
		return err // Attach takes what it says
	}
	if err := RemoveEphemeral(ctx, s.Records, dir); err != nil {
		return err
	}
	if err := checkNoFiles(dir); err != nil {
		return err
	}
	var stat unix.Stat_t
	if err := unix.Stat(dir, &stat); err != nil {
		return err
	}
	var fsStat unix.Statfs_t
	if err := unix.Statfs(dir, &fsStat); err != nil {
		return err
	}
	record := directvolume.Record{
		VolumeType: directvolume.VolumeTypeEphemeral, Device: filepath.Join(dir, imageName), FSType: "ext4",
		Metadata: map[string]string{
			directvolume.MetadataCreateFilesystem: "true",
			directvolume.MetadataRootMode:         strconv.FormatUint(uint64(stat.Mode&0o7777), 8),
		},
		Options: []string{"discard"}, // what is deleted in there is free on the host, and counts no more
	}
	if stat.Gid != 0 {
		record.Metadata[directvolume.MetadataFSGroup] = strconv.FormatUint(uint64(stat.Gid), 10)
	}
	if err := makeImage(record.Device, min(int64(fsStat.Blocks)*fsStat.Bsize, maxImageBytes)); err != nil {
		return err
	}
	if err := s.Records.Add(ctx, dir, record); err != nil {
		return errors.Join(err, os.Remove(record.Device))
	}
	return nil
}

func makeImage(path string, sizeBytes int64) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(unix.Fsetxattr(int(f.Fd()), imageMark, []byte("1"), 0), f.Truncate(sizeBytes), f.Close())
	if err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// ofAnother says whether somebody has recorded a volume of his own for the folder.
func ofAnother(ctx context.Context, records *directvolume.Store, dir string) (bool, error) {
	record, err := records.Get(ctx, dir)
	if errors.Is(err, directvolume.ErrNotFound) {
		return false, nil
	}
	return err == nil && !ephemeral(record), err
}

// RemoveEphemeral takes away what MakeEphemeral has put there, and nobody else's record. The sandbox must have released
// it. Idempotent.
func RemoveEphemeral(ctx context.Context, records *directvolume.Store, dir string) error {
	if other, _ := ofAnother(ctx, records, dir); other { // one that cannot be read is no use to anybody
		return nil
	}
	err := records.Remove(ctx, dir)
	if err != nil && !errors.Is(err, directvolume.ErrNotFound) {
		return err
	}
	image := filepath.Join(dir, imageName)
	if _, err := unix.Lgetxattr(image, imageMark, nil); err != nil {
		return nil // none, or the pod's own file
	}
	if err := os.Remove(image); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// checkNoFiles looks for anything but folders. A pod may have filled them with any number of files.
func checkNoFiles(dir string) error {
	left := maxFolders
	return onlyFolders(dir, &left)
}

func onlyFolders(dir string, left *int) error {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	entries, err := f.ReadDir(*left + 1)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		if *left--; !entry.IsDir() || *left < 0 {
			return fmt.Errorf("%w: %s", ErrNotEmpty, path)
		}
		if err := onlyFolders(path, left); err != nil {
			return err
		}
	}
	return nil
}

// ephemeral reports whether the record is of an emptyDir, which lives and dies with the sandbox.
func ephemeral(r directvolume.Record) bool {
	return r.VolumeType == directvolume.VolumeTypeEphemeral && r.Metadata[metadataCreateFilesystem] == "true"
}

func ephemeralOptions(r directvolume.Record) []string {
	options := []string{optionCreateFilesystem}
	if mode := r.Metadata[directvolume.MetadataRootMode]; mode != "" {
		options = append(options, optionRootMode+mode)
	}
	return options
}
