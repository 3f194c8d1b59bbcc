package storage

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/katadirect/katadirect/internal/filesystem"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

// Driver options that a shim of this project sends. Kata's agent passes over
// what it does not know.
const (
	// OptionFormat, with the value "if-blank", allows a device that holds
	// nothing to be formatted.
	OptionFormat = "katadirect.io/format"
	// OptionMkfs are options of the mkfs program, as on its command line, for
	// when the device is formatted.
	OptionMkfs = "katadirect.io/mkfs-options"
	// OptionSELinuxLabel is the label that all files of the mount are to have,
	// where the guest has SELinux.
	OptionSELinuxLabel = "katadirect.io/selinux-label"
	// OptionGrow, with the value "on-mount", grows a file system that is
	// smaller than its device as soon as it is mounted.
	OptionGrow = "katadirect.io/grow"

	// OptionRootMode are the permissions, octal, of the root folder of a file
	// system that is made for this request.
	OptionRootMode = "katadirect.io/root-mode"
	// OptionSubPath, of DriverSubPath, is the part of the volume, relative to
	// its root.
	OptionSubPath = "katadirect.io/subpath"

	formatIfBlank = "if-blank"
	growOnMount   = "on-mount"
)

// Driver options of Kata's.
const (
	optionCreateFilesystem = "create_filesystem"
	optionEncryptionKey    = "encryption_key"
	// noEphemeralKey is the one value that Kata's agent acts on.
	encryptionEphemeral = "ephemeral"
)

// request is a Storage message that was understood.
type request struct {
	driver, source, fstype string
	mountPoint             string
	mount                  filesystem.MountOptions
	group                  *agentproto.FSGroup
	shared                 bool

	// For block devices.
	formatIfBlank bool
	mkfsOptions   string
	selinuxLabel  string
	ephemeral     bool // what is formatted need not survive the machine
	growOnMount   bool
	rootMode      uint32 // 0 for what mkfs makes

	inside string // of DriverSubPath

	// For folders made in the guest.
	directory directoryOptions
}

func parse(s *agentproto.Storage) (request, error) {
	r := request{
		driver: s.GetDriver(), source: s.GetSource(), fstype: s.GetFstype(),
		mountPoint: filepath.Clean(s.GetMountPoint()), group: s.GetFsGroup(), shared: s.GetShared(),
	}
	if !filepath.IsAbs(s.GetMountPoint()) || r.mountPoint == "/" {
		return request{}, fmt.Errorf("%w: mount point %q", ErrRequest, s.GetMountPoint())
	}
	options, err := r.directory.take(s.GetOptions())
	if err != nil {
		return request{}, err
	}
	if r.mount, err = filesystem.ParseOptions(options); err != nil {
		return request{}, err
	}
	for _, option := range s.GetDriverOptions() {
		if err := r.driverOption(option); err != nil {
			return request{}, err
		}
	}
	return r, nil
}

// driverOption reads one driver option. Those that nobody here knows are
// passed over, as in Kata's agent; a known one with a value that is not is an
// error, for it may be about data.
func (r *request) driverOption(option string) error {
	key, value, _ := strings.Cut(option, "=")
	switch key {
	case OptionFormat:
		r.formatIfBlank = value == formatIfBlank
		return known(option, r.formatIfBlank)
	case OptionMkfs:
		r.mkfsOptions = value // whether they are good matters only, and is checked, when they are used
	case OptionSELinuxLabel:
		r.selinuxLabel = value
		return known(option, isSELinuxLabel(value))
	case OptionGrow:
		r.growOnMount = value == growOnMount
		return known(option, r.growOnMount)
	case OptionSubPath:
		r.inside = value
	case OptionRootMode:
		mode, err := strconv.ParseUint(value, 8, 12)
		r.rootMode = uint32(mode)
		return known(option, err == nil)
	case optionCreateFilesystem:
		r.formatIfBlank, r.ephemeral = true, true
	case optionEncryptionKey:
		if value == encryptionEphemeral {
			// To mount it unencrypted would betray whoever asked.
			return fmt.Errorf("%w: encrypted volumes need a key service in the guest", ErrDriver)
		}
	}
	return nil
}

func known(option string, ok bool) error {
	if !ok {
		return fmt.Errorf("%w: driver option %q", ErrRequest, option)
	}
	return nil
}
