package device

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// sectorSize is the unit of "size" in sysfs, whatever the device's own is.
const sectorSize = 512

// Disk is a block device that was found.
type Disk struct {
	// Name is the kernel's name for it, Node the file: "vda", "/dev/vda".
	Name, Node   string
	Major, Minor uint32

	dir    string // in sysfs
	events *Events
}

// SizeBytes is what the kernel now says the disk holds. ErrGone once the disk
// was unplugged.
func (d Disk) SizeBytes() (uint64, error) {
	sectors, err := d.number("size")
	return sectors * sectorSize, err
}

// ReadOnly says whether the device itself refuses writes. A SCSI disk is there before the kernel has looked at it for the
// second time, and is taken for writable in the middle of each look: a look of one's own comes after that one.
func (d Disk) ReadOnly() (bool, error) {
	d.rescan()
	ro, err := d.number("ro")
	return ro != 0, err
}

// Sequence is a number that no other disk of this boot has or will have, also
// not one that is found at the same place later. Linux 5.15 and later have it.
func (d Disk) Sequence() (uint64, error) { return d.number("diskseq") }

// WaitForSize waits until ctx ends for the disk to be at least that large, and
// returns the size it then has.
func (d Disk) WaitForSize(ctx context.Context, sizeBytes uint64) (uint64, error) {
	d.rescan()
	var now uint64
	err := d.events.Until(ctx, func() (ok bool, err error) {
		now, err = d.SizeBytes()
		return now >= sizeBytes, err
	})
	if errors.Is(err, ErrTimeout) {
		return now, fmt.Errorf("%s has %d bytes, waiting for %d: %w", d.Node, now, sizeBytes, err)
	}
	return now, err
}

// rescan has the kernel look at a SCSI disk anew, its capacity too, and waits for that; other kinds hear of a
// change by themselves and have no such file.
func (d Disk) rescan() {
	_ = os.WriteFile(filepath.Join(d.dir, "device/rescan"), []byte("1"), 0o200)
}

func (d Disk) number(file string) (uint64, error) {
	data, err := os.ReadFile(filepath.Join(d.dir, file))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("%s: %w", d.Node, ErrGone)
	}
	if err != nil {
		return 0, err
	}
	v, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s of %s: %w", file, d.Node, err)
	}
	return v, nil
}
