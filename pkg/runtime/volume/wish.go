package volume

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/agentclient"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// guestDir is where Kata's shim has its agent mount block devices.
const guestDir = "/run/kata-containers/sandbox/storage"

// Driver options that our agent knows and Kata's ignores.
const (
	optionFormatIfBlank = "katadirect.io/format=if-blank"
	optionGrowOnMount   = "katadirect.io/grow=on-mount"
	optionMkfs          = "katadirect.io/mkfs-options="
	optionSELinuxLabel  = "katadirect.io/selinux-label="
)

// Keys of Kata's that ask the guest for a new file system, or an encrypted one.
const (
	metadataCreateFilesystem = directvolume.MetadataCreateFilesystem
	metadataEncryptionKey    = "encryptionKey"
)

// identity is what a device is, whatever it is called: the number of a block device, or the inode of a file.
type identity struct{ dev, ino, rdev uint64 }

func identify(device string) (id identity, block bool, err error) {
	var stat unix.Stat_t
	if err := unix.Stat(device, &stat); err != nil {
		return identity{}, false, fmt.Errorf("%w: stat %s: %w", directvolume.ErrDevice, device, err)
	}
	if stat.Mode&unix.S_IFMT == unix.S_IFBLK {
		return identity{rdev: stat.Rdev}, true, nil
	}
	return identity{dev: stat.Dev, ino: stat.Ino}, false, nil
}

// diskID is the same for the same device, so that logs of two attempts can be read together.
func (i identity) diskID() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d:%d:%d", i.dev, i.ino, i.rdev))
	return hex.EncodeToString(sum[:8])
}

// wish is what a record asks for.
type wish struct {
	identity
	device        string
	readOnly      bool
	fsType        string
	options       []string
	driverOptions []string
	fsGroup       *agentproto.FSGroup
	limits        directvolume.Limits
	shared        bool // it stays mounted until the sandbox ends
}

func newWish(r directvolume.Record, f agentclient.Features) (wish, error) {
	if r.FSType == "" {
		return wish{}, fmt.Errorf("%w: it is of a raw block volume, which is not mounted", ErrUnsupported)
	}
	if r.Metadata[metadataEncryptionKey] != "" {
		return wish{}, fmt.Errorf("%w: %s", ErrUnsupported, metadataEncryptionKey)
	}
	id, block, err := identify(r.Device)
	if err != nil {
		return wish{}, err
	}
	w := wish{identity: id, device: r.Device, fsType: r.FSType, readOnly: r.ReadOnly(), options: split(r.Options)}
	if block && !w.readOnly {
		if w.readOnly, err = kernelReadOnly(r.Device); err != nil {
			return wish{}, err
		}
	}
	if w.readOnly && !r.ReadOnly() {
		w.options = append(w.options, "ro")
	}
	w.shared = ephemeral(r)
	w.driverOptions = driverOptions(r, w.readOnly)
	if label := r.Metadata[directvolume.MetadataSELinuxLabel]; label != "" {
		w.driverOptions = append(w.driverOptions, optionSELinuxLabel+label)
	}
	if w.limits, err = r.Limits(); err != nil {
		return wish{}, fmt.Errorf("%w: %w", directvolume.ErrInvalid, err)
	}
	w.fsGroup, err = fsGroup(r.Metadata)
	return w, err
}

// driverOptions asks the guest to format a blank device, if the record allows that, and to grow a file system that is
// smaller than its device. Kata's createFilesystem, which formats at every mount, is taken for the harmless one.
func driverOptions(r directvolume.Record, readOnly bool) []string {
	if readOnly {
		return nil
	}
	if ephemeral(r) {
		return ephemeralOptions(r)
	}
	options := []string{optionGrowOnMount}
	create, _ := strconv.ParseBool(r.Metadata[metadataCreateFilesystem])
	if create || r.Metadata[directvolume.MetadataFormat] == directvolume.FormatIfBlank {
		options = append(options, optionFormatIfBlank)
		if chosen := r.Metadata[directvolume.MetadataMkfsOptions]; chosen != "" {
			options = append(options, optionMkfs+chosen)
		}
	}
	return options
}

// fsGroup is Kata's: OnRootMismatch in just that spelling, and everything else is Always.
func fsGroup(metadata map[string]string) (*agentproto.FSGroup, error) {
	text, ok := metadata[directvolume.MetadataFSGroup]
	if !ok {
		return nil, nil
	}
	id, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", directvolume.ErrInvalid, directvolume.MetadataFSGroup, err)
	}
	group := &agentproto.FSGroup{GroupId: uint32(id), GroupChangePolicy: agentproto.FSGroupChangePolicy_Always}
	if metadata[directvolume.MetadataFSGroupChangePolicy] == directvolume.FSGroupOnRootMismatch {
		group.GroupChangePolicy = agentproto.FSGroupChangePolicy_OnRootMismatch
	}
	return group, nil
}

func split(options []string) []string {
	var all []string
	for _, list := range options {
		for option := range strings.SplitSeq(list, ",") {
			if option = strings.TrimSpace(option); option != "" {
				all = append(all, option)
			}
		}
	}
	return all
}

// kernelReadOnly asks whether a block device takes no writes, whatever the record says (BLKROGET of block(4)).
func kernelReadOnly(device string) (readOnly bool, err error) {
	fd, err := unix.Open(device, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, fmt.Errorf("%w: open %s: %w", directvolume.ErrDevice, device, err)
	}
	value, err := unix.IoctlGetInt(fd, unix.BLKROGET)
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		return false, fmt.Errorf("%w: %s: %w", directvolume.ErrDevice, device, err)
	}
	return value != 0, nil
}

// storage is the message for the agent.
func (w wish) storage(a vm.DiskAddress) *agentproto.Storage {
	return &agentproto.Storage{
		Driver:        a.Driver,
		DriverOptions: slices.Clone(w.driverOptions),
		Source:        a.Source,
		Fstype:        w.fsType,
		Options:       slices.Clone(w.options),
		MountPoint:    guestPath(a),
		FsGroup:       w.fsGroup,
		Shared:        w.shared,
	}
}

// guestPath is Kata's: two containers with the same disk name the same mount point, and the agent counts them.
func guestPath(a vm.DiskAddress) string {
	return path.Join(guestDir, base64.URLEncoding.EncodeToString([]byte(a.Source)))
}
