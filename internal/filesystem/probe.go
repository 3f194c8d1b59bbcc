package filesystem

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Content is what a device was found to hold.
type Content struct {
	// Kind is the type of the file system or the name of what else is there;
	// "" on a blank device.
	Kind string
	// Unfinished is true where a format begun by this package did not come to
	// its end. No file system on the device was ever in use.
	Unfinished bool
	// SizeBytes is how much of the device the file system takes, where its
	// type is ext or xfs; 0 otherwise.
	SizeBytes uint64
}

const unknownData = "unknown data"

// Blank says whether nothing at all was found.
func (c Content) Blank() bool { return c.Kind == "" && !c.Unfinished }

// Used says whether there is something that a format would destroy.
func (c Content) Used() bool { return !c.Blank() && !c.Unfinished }

// area is a part of a device, in bytes.
type area struct{ offset, length int64 }

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30

	// headLength covers every primary signature, LVM's and RAID's metadata,
	// ZFS' first two labels, and LUKS' second header in its farthest place.
	headLength = 4*mib + 64*kib
	// firstLength covers ext's and xfs' superblocks.
	firstLength = 4 * kib
	// quickLength is what identify looks at, short of VMFS, and how much of
	// an area is read at once: few requests, and little memory.
	quickLength = 256 * kib
	// tailLength covers GPT's second table, the older RAID formats, ZFS' last
	// two labels, DRBD's and firmware RAID's metadata.
	tailLength = 1 * mib
)

// signatureAreas are the places of a device of that size that are read before
// it is called blank: head, tail, and where copies of superblocks are kept.
func signatureAreas(size int64) []area {
	areas := []area{{0, headLength}}
	for _, offset := range []int64{
		8 * mib,   // ext's first copy with blocks of 1 KiB
		32 * mib,  // of 2 KiB
		128 * mib, // of 4 KiB
		64 * mib,  // btrfs' first copy
		256 * gib, // btrfs' second copy
	} {
		areas = append(areas, area{offset, 64 * kib})
	}
	areas = append(areas, area{markOffset(size), markLength}, area{size - tailLength, tailLength})

	var inside []area
	for _, a := range areas {
		if a.offset < 0 {
			a = area{0, a.length + a.offset}
		}
		a.length = min(a.length, size-a.offset)
		if a.length > 0 {
			inside = append(inside, a)
		}
	}
	return inside
}

// Probe finds out what the device or image at path holds. It reads the whole
// of the signature areas before it says "blank"; a known signature at the
// beginning ends the search early.
func Probe(path string) (Content, error) { return lookAt(path, probe) }

// glance is Probe, as far as the beginning tells: what it calls blank need not
// be.
func glance(path string) (Content, error) {
	return lookAt(path, func(r io.ReaderAt, size int64) (Content, error) {
		return probeHead(r, size, aligned(quickLength))
	})
}

func lookAt(path string, probe func(io.ReaderAt, int64) (Content, error)) (Content, error) {
	f, err := os.Open(path)
	if err != nil {
		return Content{}, fmt.Errorf("look for a file system: %w", err)
	}
	defer f.Close()
	_, content, err := look(f, probe)
	return content, err
}

// look finds out how large an open device is and what it holds.
func look(device *os.File, probe func(io.ReaderAt, int64) (Content, error)) (size int64, content Content, err error) {
	if size, err = sizeOf(device); err == nil {
		undo := pastCache(device, size)
		content, err = probe(device, size)
		undo()
	}
	if err != nil {
		return size, Content{}, fmt.Errorf("look for a file system on %s: %w", device.Name(), err)
	}
	return size, content, nil
}

func probe(r io.ReaderAt, size int64) (Content, error) {
	buffer := aligned(quickLength)
	content, err := probeHead(r, size, buffer)
	if err != nil || !content.Blank() {
		return content, err
	}
	kind, err := searchAreas(r, size, buffer)
	return Content{Kind: kind}, err
}

// probeHead looks for the mark of an unfinished format, and for signatures at
// the beginning, which it reads into buffer.
func probeHead(r io.ReaderAt, size int64, buffer []byte) (content Content, err error) {
	if size <= 0 {
		return Content{}, fmt.Errorf("device has no size: %w", io.ErrUnexpectedEOF)
	}
	marked, err := isMarked(r, size)
	if err != nil {
		return Content{}, err
	}
	for _, length := range []int64{firstLength, quickLength} {
		head := buffer[:min(length, size)]
		if err := fill(r, head, 0); err != nil {
			return Content{}, err
		}
		content = Content{Kind: identify(head)}
		content.SizeBytes = fileSystemSize(content.Kind, head)
		content.Unfinished = marked && neverUsed(content.Kind, head)
		if content.SizeBytes > 0 {
			// Nearly every device that is looked at is a volume of ours on its
			// second use, and says so in its first page.
			break
		}
	}
	return content, nil
}

// searchAreas reads every signature area in full, and names what is in them;
// "" when all is zero.
func searchAreas(r io.ReaderAt, size int64, buffer []byte) (string, error) {
	found := ""
	for _, a := range signatureAreas(size) {
		zero, err := isZero(r, a, buffer)
		if err != nil {
			return "", err
		}
		if found != "" || zero {
			continue
		}
		if a.offset == 0 {
			head, err := readArea(r, a)
			if err != nil {
				return "", err
			}
			found = identify(head)
		}
		if found == "" {
			found = fmt.Sprintf("%s between byte %d and byte %d", unknownData, a.offset, a.offset+a.length)
		}
	}
	return found, nil
}

// isZero reads all of an area, a bufferful at a time, and says whether every
// byte is zero.
func isZero(r io.ReaderAt, a area, buffer []byte) (bool, error) {
	zero := true
	for done := int64(0); done < a.length; {
		piece := buffer[:min(int64(len(buffer)), a.length-done)]
		if err := fill(r, piece, a.offset+done); err != nil {
			return false, err
		}
		zero = zero && allZero(piece)
		done += int64(len(piece))
	}
	return zero, nil
}

// readArea reads all of a. Less than all is an error.
func readArea(r io.ReaderAt, a area) ([]byte, error) {
	data := aligned(a.length)
	return data, fill(r, data, a.offset)
}

// fill reads all of data at offset.
func fill(r io.ReaderAt, data []byte, offset int64) error {
	n, err := r.ReadAt(data, offset)
	if n == len(data) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at %d: %w", len(data), offset, err)
}

// sizeOf is the size in bytes of a block device or an image file.
func sizeOf(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if info.Mode().IsRegular() {
		return info.Size(), nil
	}
	if info.Mode()&os.ModeDevice == 0 || info.Mode()&os.ModeCharDevice != 0 {
		return 0, fmt.Errorf("not a block device: %w", unix.ENOTBLK)
	}
	return f.Seek(0, io.SeekEnd)
}

// IsOther says whether something is there that mount(2) cannot take for a file
// system of that type. Of data of an unknown kind only mount(2) itself can
// tell.
func (c Content) IsOther(fstype string) bool {
	if c.Kind == fstype || strings.HasPrefix(c.Kind, unknownData) {
		return false
	}
	// The driver for ext4 mounts its predecessors too.
	return fstype != "ext4" || c.Kind != "ext3" && c.Kind != "ext2"
}
