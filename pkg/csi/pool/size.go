package pool

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

const (
	kib = int64(1) << 10
	mib = int64(1) << 20
	gib = int64(1) << 30
	tib = int64(1) << 40

	// DefaultSizeBytes is what a volume gets when nobody says how large it should be.
	DefaultSizeBytes = gib

	// alignBytes is what sizes are rounded up to: the block size of the guest's file systems, and a multiple of every
	// sector size, so that no runtime rounds the disk differently.
	alignBytes = 4 * kib
)

// RawBlock stands in the place of a file system for a volume that has none: its pod gets the device as it is.
const RawBlock = "block"

// limits are the sizes a file system can have.
type limits struct{ minBytes, maxBytes int64 }

// fileSystems are those a guest can make on a volume. Minima: mke2fs makes an ext4 with a journal from 16 MiB on;
// mkfs.xfs refuses less than 300 MB since xfsprogs 5.19; mkfs.btrfs refuses less than 109 MiB, of which a quarter would
// be left for files. Maxima: a file on an ext4 host ends at 16 TiB; 500 TiB is what xfs is supported for, and no less
// than anybody has tried with btrfs.
var fileSystems = map[string]limits{
	"btrfs": {minBytes: 256 * mib, maxBytes: 500 * tib},
	"ext4":  {minBytes: 16 * mib, maxBytes: 16 * tib},
	"xfs":   {minBytes: 300 * mib, maxBytes: 500 * tib},

	RawBlock: {minBytes: mib, maxBytes: 500 * tib},
}

// FileSystems returns the file systems that volumes can have, sorted. RawBlock is none.
func FileSystems() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(fileSystems)), func(name string) bool { return name == RawBlock })
}

// SizeRange is what a caller asks for, in bytes; zero leaves that end open.
type SizeRange struct {
	RequiredBytes int64 // the volume must be at least this large
	LimitBytes    int64 // the volume must not be larger
}

// holds reports whether a volume of that size satisfies the range.
func (r SizeRange) holds(sizeBytes int64) bool {
	return sizeBytes >= r.RequiredBytes && (r.LimitBytes == 0 || sizeBytes <= r.LimitBytes)
}

// choose returns the smallest good size in the range for a file system: what is required, rounded up, or else the
// default; never below what the file system needs. It returns ErrOutOfRange when there is none.
func (r SizeRange) choose(fsType string) (int64, error) {
	fs, known := fileSystems[fsType]
	switch {
	case !known:
		return 0, unknownFileSystem(fsType)
	case r.RequiredBytes < 0 || r.LimitBytes < 0:
		return 0, fmt.Errorf("%w: a size cannot be negative", ErrInvalidSpec)
	case r.LimitBytes != 0 && r.LimitBytes < r.RequiredBytes:
		return 0, fmt.Errorf("%w: the limit of %d bytes is less than the %d bytes required",
			ErrOutOfRange, r.LimitBytes, r.RequiredBytes)
	case r.RequiredBytes > fs.maxBytes:
		return 0, fmt.Errorf("%w: %d bytes are more than the %d bytes a volume with %s can have",
			ErrOutOfRange, r.RequiredBytes, fs.maxBytes, fsType)
	}
	size := r.RequiredBytes
	if size == 0 {
		size = DefaultSizeBytes
		if r.LimitBytes != 0 {
			size = min(size, r.LimitBytes/alignBytes*alignBytes)
		}
	}
	size = max(align(size), fs.minBytes)
	if r.LimitBytes != 0 && size > r.LimitBytes {
		return 0, fmt.Errorf("%w: the limit of %d bytes is less than the %d bytes a volume with %s needs here "+
			"(sizes are multiples of %d)", ErrOutOfRange, r.LimitBytes, size, fsType, alignBytes)
	}
	return size, nil
}

// chooseGrown returns the size a volume of sizeBytes gets when grown to the range: never less than it has.
func (r SizeRange) chooseGrown(fsType string, sizeBytes int64) (int64, error) {
	if r.LimitBytes != 0 && r.LimitBytes < sizeBytes {
		return 0, fmt.Errorf("%w: the volume has %d bytes, more than the limit of %d; a volume is never made smaller",
			ErrOutOfRange, sizeBytes, r.LimitBytes)
	}
	if r.RequiredBytes == 0 {
		r.RequiredBytes = sizeBytes
	}
	if r.RequiredBytes >= 0 && r.RequiredBytes <= sizeBytes {
		return sizeBytes, nil
	}
	return r.choose(fsType)
}

// Wanted is the size the range asks for, rounded up, of a volume about which nothing else is known.
func (r SizeRange) Wanted() (int64, error) {
	sizeBytes := align(r.RequiredBytes)
	if r.RequiredBytes <= 0 || !r.holds(sizeBytes) {
		return 0, fmt.Errorf("%w: at least %d and at most %d bytes are asked for", ErrOutOfRange, r.RequiredBytes, r.LimitBytes)
	}
	return sizeBytes, nil
}

func align(sizeBytes int64) int64 { return (sizeBytes + alignBytes - 1) / alignBytes * alignBytes }

func unknownFileSystem(fsType string) error {
	return fmt.Errorf("%w: file system %q is not supported, only %s",
		ErrInvalidSpec, fsType, strings.Join(FileSystems(), ", "))
}
