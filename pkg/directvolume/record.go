package directvolume

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// VolumeTypeDirect is the volume-type that every runtime accepts. Kata's Go runtime ignores the value, its Rust
// runtime refuses every other one.
const VolumeTypeDirect = "directvol"

// Other volume types that are read.
const (
	// VolumeTypeBlock is in Kata's documents, for what it writes as VolumeTypeDirect. Without a file system it is ours:
	// a raw block volume.
	VolumeTypeBlock = "block"
	// VolumeTypeEphemeral is what shims write for the block emptyDirs that they make themselves.
	VolumeTypeEphemeral = "blk"
)

// Keys of Record.Metadata. Those with a slash are ours and mean nothing to other runtimes; the others are Kata's.
const (
	// MetadataVolumeID is the CSI volume id.
	MetadataVolumeID = "katadirect.io/volume-id"
	// MetadataSizeBytes is the size the volume was given, in bytes, as a decimal number.
	MetadataSizeBytes = "katadirect.io/size-bytes"
	// MetadataBacking is what Device is: BackingFile or BackingBlock.
	MetadataBacking = "katadirect.io/backing"
	// MetadataPod is the pod that the volume is published for, "namespace/name". It is for people only.
	MetadataPod = "katadirect.io/pod"
	// MetadataBootID is the boot of the host that the record is of, as the kernel calls it. Absent: nobody has said.
	MetadataBootID = "katadirect.io/boot-id"
	// MetadataFormat is FormatIfBlank when the guest may format a device proven blank. Absent: never format.
	MetadataFormat = "katadirect.io/format"
	// MetadataMkfsOptions are options of the mkfs program for when the guest formats the device, as on its command line.
	MetadataMkfsOptions = "katadirect.io/mkfs-options"
	// MetadataLimits are the volume's Limits, in their text form. Absent: none.
	MetadataLimits = "katadirect.io/limits"
	// MetadataSELinuxLabel is the label that all files are to have in a guest that has SELinux. Absent: their own.
	MetadataSELinuxLabel = "katadirect.io/selinux-label"
	// MetadataRootMode are the permissions of the root folder of a file system that the guest makes, octal. Only a
	// shim's own block emptyDirs have it.
	MetadataRootMode = "katadirect.io/root-mode"
	// MetadataCreateFilesystem is Kata's for a file system that is made at every mount. This project writes it for block
	// emptyDirs only.
	MetadataCreateFilesystem = "createFilesystem"
	// MetadataFSGroup is the group that owns the volume's files, a decimal number from 1.
	MetadataFSGroup = "fsGroup"
	// MetadataFSGroupChangePolicy is FSGroupAlways or FSGroupOnRootMismatch, as in a pod's securityContext.
	MetadataFSGroupChangePolicy = "fsGroupChangePolicy"
)

// Values of MetadataFSGroupChangePolicy.
const (
	FSGroupAlways         = "Always"
	FSGroupOnRootMismatch = "OnRootMismatch"
)

// Values of MetadataBacking and MetadataFormat.
const (
	BackingFile   = "file"
	BackingBlock  = "block"
	FormatIfBlank = "if-blank"
)

const (
	// maxRecordBytes bounds mountInfo.json. Kata's readers have no bound.
	maxRecordBytes = 64 << 10
	maxDeviceBytes = 4095 // PATH_MAX without the NUL
)

// Record says what stands behind a volume path. Its JSON is Kata's MountInfo, field for field and in that order.
type Record struct {
	// VolumeType is VolumeTypeDirect; empty means that when a record is added.
	VolumeType string `json:"volume-type"`
	// Device is the absolute host path of a block special or regular file with the raw bytes of the disk.
	Device string `json:"device"`
	// FSType is the file system the guest mounts, e.g. "ext4". It is empty for a raw block volume, which a VolumeType
	// of VolumeTypeBlock must say, and is not mounted at all.
	FSType string `json:"fstype"`
	// Metadata carries the keys above. Runtimes ignore keys they do not know.
	Metadata map[string]string `json:"metadata,omitempty"`
	// Options are mount options of the file system, e.g. "ro". Never bind, rbind or loop.
	Options []string `json:"options,omitempty"`
}

// clone returns a record that shares nothing with r.
func (r Record) clone() Record {
	r.Metadata, r.Options = maps.Clone(r.Metadata), slices.Clone(r.Options)
	return r
}

// ReadOnly reports whether the options say so. The last of ro and rw counts, as in mount(8).
func (r Record) ReadOnly() bool {
	readOnly := false
	for _, list := range r.Options {
		for option := range strings.SplitSeq(list, ",") {
			switch option {
			case "ro":
				readOnly = true
			case "rw":
				readOnly = false
			}
		}
	}
	return readOnly
}

// Validate returns an ErrInvalid that names the first thing about r that no runtime could carry out safely.
// It does not look at the device: that is for the one who claims it.
func (r Record) Validate() error {
	switch r.VolumeType {
	case "", VolumeTypeDirect, VolumeTypeBlock, VolumeTypeEphemeral:
	default:
		return invalidf("volume-type %q is not %q", r.VolumeType, VolumeTypeDirect)
	}
	if err := validateDevice(r.Device); err != nil {
		return err
	}
	if r.FSType != "" || r.VolumeType != VolumeTypeBlock {
		if err := validateFSType(r.FSType); err != nil {
			return err
		}
	}
	for _, option := range r.Options {
		if err := validateOption(option); err != nil {
			return err
		}
	}
	return validateMetadata(r.Metadata)
}

func validateDevice(device string) error {
	switch {
	case device == "":
		return invalidf("device is empty")
	case !path.IsAbs(device):
		return invalidf("device %q is not an absolute path", device)
	case len(device) > maxDeviceBytes:
		return invalidf("device is %d bytes long, more than a path can be", len(device))
	case hasControl(device):
		return invalidf("device %q has a control character in it", device)
	}
	return nil
}

func validateFSType(fsType string) error {
	if fsType == "" {
		return invalidf("fstype is empty")
	}
	for _, c := range fsType {
		letterOrDigit := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letterOrDigit && !strings.ContainsRune("._-", c) || len(fsType) > 64 {
			return invalidf("fstype %q is not the name of a file system", fsType)
		}
	}
	if fsType == "bind" {
		return invalidf("fstype is \"bind\": the device would not be mounted")
	}
	return nil
}

// validateOption splits at commas, because the kernel will: "noatime,bind" is a bind.
func validateOption(list string) error {
	if hasControl(list) {
		return invalidf("option %q has a control character in it", list)
	}
	for option := range strings.SplitSeq(list, ",") {
		name, _, _ := strings.Cut(strings.TrimSpace(option), "=")
		switch name {
		case "bind", "rbind", "move", "remount", "loop":
			return invalidf("option %q: the guest mounts a device, so it cannot be a %s mount", list, name)
		}
	}
	return nil
}

func validateMetadata(metadata map[string]string) error {
	if group, ok := metadata[MetadataFSGroup]; ok {
		// Kata's Go runtime fails the container for 0 and for what does not fit in 32 bits.
		if n, err := strconv.ParseUint(group, 10, 32); err != nil || n == 0 {
			return invalidf("metadata %s %q is not a group number from 1", MetadataFSGroup, group)
		}
	}
	if format, ok := metadata[MetadataFormat]; ok && format != FormatIfBlank {
		return invalidf("metadata %s %q is not %q", MetadataFormat, format, FormatIfBlank)
	}
	if _, err := ParseLimits(metadata[MetadataLimits]); err != nil {
		return invalidf("metadata %s: %v", MetadataLimits, err)
	}
	return nil
}

// ParseRecord reads the JSON of a record and validates it. It is stricter than Kata's readers where they would
// disagree with each other about what the text says.
func ParseRecord(data []byte) (Record, error) {
	if len(data) == 0 {
		return Record{}, invalidf("it is empty")
	}
	if len(data) > maxRecordBytes {
		return Record{}, invalidf("it is larger than %d KiB", maxRecordBytes>>10)
	}
	// encoding/json would replace bad bytes by U+FFFD and so name another device.
	if !utf8.Valid(data) {
		return Record{}, invalidf("it is not UTF-8")
	}
	if err := uniqueKeys(data); err != nil {
		return Record{}, err
	}
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return Record{}, invalidf("%v", err)
	}
	return r, r.Validate()
}

// uniqueKeys refuses an object that says a thing twice: the first, the last or neither may win, and Go's decoder
// (unlike serde) takes "Device" for "device".
func uniqueKeys(data []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return invalidf("it is not a JSON object")
	}
	seen := []string{}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return invalidf("%v", err)
		}
		key, _ := token.(string)
		for _, other := range seen {
			if strings.EqualFold(key, other) {
				return invalidf("it has the key %q twice", key)
			}
		}
		if len(seen) == 64 {
			return invalidf("it has more than %d keys", len(seen))
		}
		seen = append(seen, key)
		var skipped json.RawMessage
		if err := decoder.Decode(&skipped); err != nil {
			return invalidf("%v", err)
		}
	}
	return nil
}

// marshal returns the bytes of mountInfo.json, which are those that Kata's writer would make.
func (r Record) marshal() ([]byte, error) {
	if r.VolumeType == "" {
		r.VolumeType = VolumeTypeDirect
	}
	if err := r.Validate(); err != nil {
		return nil, err
	}
	data, err := json.Marshal(r)
	if err != nil {
		return nil, invalidf("%v", err)
	}
	if !utf8.ValidString(r.Device) {
		return nil, invalidf("device %q is not UTF-8", r.Device)
	}
	if len(data) > maxRecordBytes {
		return nil, invalidf("it would be larger than %d KiB", maxRecordBytes>>10)
	}
	return data, nil
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(c rune) bool { return c < 0x20 || c == 0x7f })
}

func invalidf(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
}
