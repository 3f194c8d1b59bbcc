package pool

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	imageName = "disk.img"
	metaName  = "volume.json"

	dirMode  = 0o700
	fileMode = 0o600

	// deletedPrefix marks a folder whose volume has been deleted and whose content is on its way out.
	deletedPrefix = ".deleted-"

	// maxMetaBytes bounds volume.json. CSI bounds names and parameters to far less.
	maxMetaBytes = 64 * kib

	metaVersion = 1

	// metaEnd is the last byte of a volume.json that was written to its end; JSON has no such byte within.
	metaEnd = '\n'
)

// meta is the content of volume.json. The size is not in it: the image's length is the only word on that.
type meta struct {
	Version    int               `json:"version"`
	Name       string            `json:"name"`
	FSType     string            `json:"fstype"`
	Parameters map[string]string `json:"parameters,omitempty"`
	Overcommit float64           `json:"overcommit,omitempty"`
	Created    time.Time         `json:"created"`
	Source     string            `json:"source,omitempty"`
}

// openBelow opens name below dir. Neither ".." nor a symbolic link anywhere in name leads out of dir: the kernel
// refuses them (openat2).
func openBelow(dir *os.File, name string, flags int, mode uint32) (*os.File, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW),
		Mode:    uint64(mode),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(int(dir.Fd()), name, &how)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue // EAGAIN: something was renamed while the kernel walked the path
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: name, Err: err}
		}
		return os.NewFile(uintptr(fd), name), nil
	}
}

// folder is one volume's folder, held open.
type folder struct {
	root *os.File
	id   string
	dir  *os.File
}

func openFolder(root *os.File, id string) (*folder, error) {
	dir, err := openBelow(root, id, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return &folder{root: root, id: id, dir: dir}, nil
}

func (f *folder) close() { f.dir.Close() }

// openImage opens the image, which must be a regular file. O_NONBLOCK: what stands there instead must not hang us.
func (f *folder) openImage(flags int) (*os.File, error) {
	image, err := openBelow(f.dir, imageName, flags|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(image.Fd()), &stat); err != nil {
		image.Close()
		return nil, fmt.Errorf("stat %s: %w", imageName, err)
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG {
		image.Close()
		return nil, fmt.Errorf("%s is not a regular file", imageName)
	}
	return image, nil
}

// imageSize is how long the image is and how much of it is on the disk, in bytes.
type imageSize struct{ lengthBytes, allocatedBytes int64 }

func (f *folder) imageSize() (imageSize, error) { return imageSizeAt(int(f.dir.Fd())) }

func imageSizeAt(dir int) (imageSize, error) {
	var stat unix.Stat_t
	if err := unix.Fstatat(dir, imageName, &stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return imageSize{}, &os.PathError{Op: "stat", Path: imageName, Err: err}
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return imageSize{}, fmt.Errorf("%s is not a regular file", imageName)
	}
	return imageSize{lengthBytes: stat.Size, allocatedBytes: stat.Blocks * 512}, nil
}

func (f *folder) readMeta() (meta, error) {
	data, err := f.readFile(metaName)
	if err != nil {
		return meta{}, err
	}
	return parseMeta(f.id, data)
}

// parseMeta reads volume.json of the folder called id.
func parseMeta(id string, data []byte) (meta, error) {
	if int64(len(data)) > maxMetaBytes {
		return meta{}, fmt.Errorf("%s is larger than %d KiB", metaName, maxMetaBytes/kib)
	}
	var m meta
	if err := json.Unmarshal(data, &m); err != nil {
		return meta{}, fmt.Errorf("%s: %w", metaName, err)
	}
	if m.Version != metaVersion {
		return meta{}, fmt.Errorf("%s has version %d; this program knows version %d", metaName, m.Version, metaVersion)
	}
	if !idNames(id, m.Name) {
		return meta{}, fmt.Errorf("%s is of the volume %q, whose folder has another name", metaName, m.Name)
	}
	if _, known := fileSystems[m.FSType]; !known {
		return meta{}, fmt.Errorf("%s: %w", metaName, unknownFileSystem(m.FSType))
	}
	return m, nil
}

// removeFolder deletes what a volume's folder can hold, and the folder. Anything else in it makes it fail and stays.
// A folder that is not there is a success.
func removeFolder(root *os.File, name string) error {
	dir, err := openBelow(root, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	freeImage(dir)
	for _, file := range append(markNames,
		imageName, metaName, snapshotMetaName, groupMetaName, attachedName, attachedReadOnlyName, limitsName, limitsDraft,
	) {
		if err := unix.Unlinkat(int(dir.Fd()), file, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return &os.PathError{Op: "unlink", Path: name + "/" + file, Err: err}
		}
	}
	if err := unix.Unlinkat(int(root.Fd()), name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "rmdir", Path: name, Err: err}
	}
	return nil
}

// freeImage gives the image's space back at once. xfs takes its time with that when a file is unlinked, and the next
// volume would find the pool full. An image that has another name too is somebody's copy and stays whole. Failing is
// fine: the unlinking says what is wrong.
func freeImage(dir *os.File) {
	image, err := openBelow(dir, imageName, unix.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer image.Close()
	var stat unix.Stat_t
	if unix.Fstat(int(image.Fd()), &stat) == nil && stat.Mode&unix.S_IFMT == unix.S_IFREG && stat.Nlink == 1 {
		_ = image.Truncate(0)
	}
}

// isDeleted reports whether a name in the pool is that of a folder on its way out.
func isDeleted(name string) bool {
	id, found := strings.CutPrefix(name, deletedPrefix)
	return found && isOurs(id)
}
