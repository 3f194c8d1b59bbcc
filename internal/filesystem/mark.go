package filesystem

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"os"
)

// The mark of a format under way. Before mkfs runs, one block of the device is
// filled with the mark and flushed; after mkfs has ended well and everything
// is flushed, and before the file system is mounted for the first time, the
// mark is cleared and that flushed too. A device that carries it has therefore
// never held anybody's data, and a format that a crash cut short can be done
// again, instead of leaving a volume that is neither blank nor usable.
//
// The mark lies where none of the mkfs programs writes: past the beginning,
// and before the last 2 MiB that btrfs and xfs clean. It is bound to the
// device's size, so that it means nothing anywhere else.
//
// Whoever may write files on a volume could fill it with marks, so that one of
// them comes to lie there. The mark alone is therefore not believed: neverUsed
// looks at what no file's content can reach.
const (
	markLength   = 4 * kib
	markMagic    = "katadirect.io: formatting has begun and is not complete\n"
	markFromEnd  = 4 * mib
	markMinSpace = 4 * markFromEnd
)

func markOffset(size int64) int64 {
	if size < markMinSpace {
		return max(0, size-markLength) / markLength * markLength
	}
	return (size - markFromEnd) / markLength * markLength
}

// mark is the block's content on a device of that size.
func mark(size int64) []byte {
	block := make([]byte, markLength)
	n := copy(block, markMagic)
	binary.LittleEndian.PutUint64(block[n:], uint64(size))
	sum := sha256.Sum256(block[:n+8])
	copy(block[n+8:], sum[:])
	return block
}

func isMarked(r io.ReaderAt, size int64) (bool, error) {
	if size < markLength {
		return false, nil
	}
	block, err := readArea(r, area{markOffset(size), markLength})
	if err != nil {
		return false, err
	}
	return bytes.HasPrefix(block, []byte(markMagic)) && bytes.Equal(block, mark(size)), nil
}

// setMark writes the mark and flushes it.
func setMark(f *os.File, size int64) error {
	if _, err := f.WriteAt(mark(size), markOffset(size)); err != nil {
		return fmt.Errorf("note that formatting begins: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("note that formatting begins: %w", err)
	}
	return nil
}

// clearMark flushes what mkfs wrote, and then takes the mark away, if it is
// still there: what is not the mark belongs to the file system.
func clearMark(f *os.File, size int64) error {
	if err := f.Sync(); err != nil {
		return fmt.Errorf("flush the new file system: %w", err)
	}
	marked, err := isMarked(f, size)
	if err != nil || !marked {
		return err
	}
	if _, err := f.WriteAt(make([]byte, markLength), markOffset(size)); err != nil {
		return fmt.Errorf("note that formatting is complete: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("note that formatting is complete: %w", err)
	}
	return nil
}

// wipe zeroes the signature areas, with the mark left for last: a crash in
// between must find it still there.
func wipe(f *os.File, size int64) error {
	marked := area{markOffset(size), markLength}
	for _, a := range signatureAreas(size) {
		for _, part := range without(a, marked) {
			if _, err := f.WriteAt(make([]byte, part.length), part.offset); err != nil {
				return fmt.Errorf("clear what an unfinished format left: %w", err)
			}
		}
	}
	return f.Sync()
}

// without is a with the part that hole covers cut out.
func without(a, hole area) []area {
	aEnd, holeEnd := a.offset+a.length, hole.offset+hole.length
	if holeEnd <= a.offset || aEnd <= hole.offset {
		return []area{a}
	}
	var parts []area
	if a.offset < hole.offset {
		parts = append(parts, area{a.offset, hole.offset - a.offset})
	}
	if holeEnd < aEnd {
		parts = append(parts, area{holeEnd, aEnd - holeEnd})
	}
	return parts
}

// neverUsed says whether the beginning of a marked device shows no file system
// that anybody can have mounted. mkfs.ext4 leaves the time of the last mount
// at zero; mkfs.xfs and mkfs.btrfs say in the superblock that they are at
// work, and take that back last.
func neverUsed(kind string, head []byte) bool {
	switch kind {
	case "", unfinishedBtrfs:
		return true
	case "ext2", "ext3", "ext4":
		super := head[extSuperblock:]
		return binary.LittleEndian.Uint32(super[extMountTime:]) == 0 &&
			binary.LittleEndian.Uint16(super[extMountCount:]) == 0
	case "xfs":
		return head[xfsInProgress] != 0
	}
	return false
}
