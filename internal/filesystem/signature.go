package filesystem

import (
	"encoding/binary"
	"math/bits"
)

// signature is a sign of what a device holds, at a fixed place.
type signature struct {
	kind   string
	offset int64
	magic  string
}

const (
	// unfinishedBtrfs is what mkfs.btrfs leaves until it has come to its end.
	unfinishedBtrfs = "an unfinished btrfs"
	// xfsInProgress is where xfs' superblock says that mkfs.xfs is at work.
	xfsInProgress = 126
)

// signatures are looked for from the top; more than one may be there, and the
// first names the content. File systems have the names that mount(2) knows.
var signatures = []signature{
	{"xfs", 0, "XFSB"},
	{"btrfs", 0x10040, "_BHRfS_M"},
	{unfinishedBtrfs, 0x10040, "!BHRfS_M"},
	{"LUKS", 0, "LUKS\xba\xbe"},
	{"LUKS (second header)", 0x4000, "SKUL\xba\xbe"},
	{"LVM physical volume", 0, "LABELONE"},
	{"LVM physical volume", 512, "LABELONE"},
	{"LVM physical volume", 1024, "LABELONE"},
	{"LVM physical volume", 1536, "LABELONE"},
	{"GPT partition table", 512, "EFI PART"},
	{"GPT partition table", 4096, "EFI PART"},
	{"swap", 4086, "SWAPSPACE2"},
	{"swap", 4086, "SWAP-SPACE"},
	{"Linux RAID member", 0, "\xfc\x4e\x2b\xa9"},
	{"Linux RAID member", 4096, "\xfc\x4e\x2b\xa9"},
	{"f2fs", 1024, "\x10\x20\xf5\xf2"},
	{"erofs", 1024, "\xe2\xe1\xf5\xe0"},
	{"squashfs", 0, "hsqs"},
	{"ntfs", 3, "NTFS    "},
	{"exfat", 3, "EXFAT   "},
	{"vfat", 82, "FAT32   "},
	{"vfat", 54, "FAT16   "},
	{"vfat", 54, "FAT12   "},
	{"iso9660", 0x8001, "CD001"},
	{"udf", 0x8801, "NSR0"},
	{"bcachefs", 4096 + 24, "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"},
	{"bcache", 4096 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"},
	{"reiserfs", 0x10034, "ReIsEr"},
	{"jfs", 0x8000, "JFS1"},
	{"gfs2", 0x10000, "\x01\x16\x19\x70"},
	{"ocfs2", 0x1000, "OCFSV2"},
	{"ocfs2", 0x800, "OCFSV2"},
	{"nilfs2", 1024 + 6, "\x34\x34"},
	{"VDO", 0, "dmvdo001"},
	{"dm-integrity", 0, "integrt\x00"},
	{"dm-verity", 0, "verity\x00\x00"},
	{"Ceph BlueStore", 0, "bluestore block device"},
	{"VMFS", 0x100000, "\x0d\xd0\x01\xc0"},
	{"qcow2 image", 0, "QFI\xfb"},
}

// identify names what the beginning of a device shows, "" for nothing that is
// known.
func identify(head []byte) string {
	if kind := identifyExt(head); kind != "" {
		return kind
	}
	for _, s := range signatures {
		if has(head, s.offset, s.magic) {
			return s.kind
		}
	}
	if isZFS(head) {
		return "ZFS pool member"
	}
	// Last, for boot sectors of file systems end in the same two bytes.
	if has(head, 510, "\x55\xaa") && !allZero(head[446:510]) {
		return "MBR partition table"
	}
	return ""
}

func has(data []byte, offset int64, magic string) bool {
	end := offset + int64(len(magic))
	return end <= int64(len(data)) && string(data[offset:end]) == magic
}

// isZFS looks for an uberblock in the first label, whose array of them starts
// at 128 KiB, in either byte order.
func isZFS(head []byte) bool {
	const first, step, last = 128 << 10, 1 << 10, 256 << 10
	for offset := int64(first); offset < last; offset += step {
		if has(head, offset, "\x0c\xb1\xba\x00") || has(head, offset+4, "\x00\xba\xb1\x0c") {
			return true
		}
	}
	return false
}

// The ext superblock: where it is, and the fields that are looked at.
const (
	extSuperblock     = 1024
	extSuperblockSize = 1024

	extMountTime       = 0x2c
	extBlocksLow       = 0x04
	extLogBlockSize    = 0x18 // of 1 KiB
	extMountCount      = 0x34
	extMaxMountCount   = 0x36
	extMagic           = 0x38
	extState           = 0x3a
	extLastCheck       = 0x40
	extCheckInterval   = 0x44
	extFeatureCompat   = 0x5c
	extFeatureIncompat = 0x60
	extBlocksHigh      = 0x150

	extStateClean  = 0x1
	extStateErrors = 0x2

	extCompatJournal      = 0x4
	extIncompatRecover    = 0x4
	extIncompatJournalDev = 0x8
	extIncompatExtents    = 0x40
	extIncompat64Bit      = 0x80
)

// identifyExt tells ext2, ext3 and ext4 apart by the features that made them.
func identifyExt(head []byte) string {
	if len(head) < extSuperblock+extSuperblockSize || !has(head, extSuperblock+extMagic, "\x53\xef") {
		return ""
	}
	super := head[extSuperblock:]
	incompat := binary.LittleEndian.Uint32(super[extFeatureIncompat:])
	switch {
	case incompat&extIncompatJournalDev != 0:
		return "ext journal"
	case incompat&extIncompatExtents != 0:
		return "ext4"
	case binary.LittleEndian.Uint32(super[extFeatureCompat:])&extCompatJournal != 0:
		return "ext3"
	}
	return "ext2"
}

// The xfs superblock's fields, which are big-endian.
const (
	xfsBlockSize = 0x04
	xfsBlocks    = 0x08
)

// fileSystemSize is what the superblock of an ext or xfs says of its size in
// bytes, 0 for other types and for nonsense.
func fileSystemSize(kind string, head []byte) uint64 {
	switch kind {
	case "ext2", "ext3", "ext4":
		super := head[extSuperblock:]
		blocks := uint64(binary.LittleEndian.Uint32(super[extBlocksLow:]))
		if binary.LittleEndian.Uint32(super[extFeatureIncompat:])&extIncompat64Bit != 0 {
			blocks |= uint64(binary.LittleEndian.Uint32(super[extBlocksHigh:])) << 32
		}
		return checkedSize(blocks, 1<<10<<(binary.LittleEndian.Uint32(super[extLogBlockSize:])&0xf))
	case "xfs":
		if len(head) < xfsBlocks+8 {
			return 0
		}
		return checkedSize(binary.BigEndian.Uint64(head[xfsBlocks:]), uint64(binary.BigEndian.Uint32(head[xfsBlockSize:])))
	}
	return 0
}

func checkedSize(blocks, blockSize uint64) uint64 {
	high, low := bits.Mul64(blocks, blockSize)
	if high != 0 {
		return 0
	}
	return low
}

// allZero looks at four words at a time, which an emulated processor does faster than anything with wider registers.
func allZero(data []byte) bool {
	for ; len(data) >= 32; data = data[32:] {
		four := data[:32:32]
		if binary.LittleEndian.Uint64(four)|binary.LittleEndian.Uint64(four[8:])|
			binary.LittleEndian.Uint64(four[16:])|binary.LittleEndian.Uint64(four[24:]) != 0 {
			return false
		}
	}
	for _, b := range data {
		if b != 0 {
			return false
		}
	}
	return true
}
