package filesystem

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctl numbers and structures of include/uapi/linux: ext4.h, xfs_fs.h,
// btrfs.h.
const (
	ext4IocResizeFS     = 0x40086610
	xfsIocFSGeometryV1  = 0x80705864
	xfsIocFSGrowFSData  = 0x4010586e
	btrfsIocResize      = 0x50009403
	btrfsVolNameMax     = 4087
	btrfsGrowToDevice   = "max"
	xfsGeometryV1Length = 112
)

type xfsGeometry struct {
	blocksize, rtextsize, agblocks, agcount uint32
	logblocks, sectsize, inodesize, imaxpct uint32
	datablocks                              uint64
	_                                       [xfsGeometryV1Length - 40]byte
}

type xfsGrowData struct {
	newblocks     uint64
	imaxpct, _pad uint32
}

type btrfsVolArgs struct {
	fd   int64
	name [btrfsVolNameMax + 1]byte
}

// Grow makes the file system mounted at target as large as its device, which
// has deviceBytes, while it stays in use. A file system that already fills the
// device is left as it is.
func Grow(target, fstype string, deviceBytes uint64) error {
	dir, err := os.OpenFile(target, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("grow: %w", err)
	}
	defer dir.Close()
	switch fstype {
	case "ext3", "ext4":
		err = growExt(dir, deviceBytes)
	case "xfs":
		err = growXFS(dir, deviceBytes)
	case "btrfs":
		err = growBtrfs(dir)
	default:
		err = ErrUnsupported
	}
	if err != nil {
		return fmt.Errorf("grow the %s at %s to %d bytes: %w", fstype, target, deviceBytes, err)
	}
	return nil
}

func growExt(dir *os.File, deviceBytes uint64) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
		return err
	}
	// f_bsize is ext's block size; a last part of a block is of no use to it.
	blocks := deviceBytes / uint64(st.Bsize)
	return ioctl(dir, ext4IocResizeFS, unsafe.Pointer(&blocks))
}

func growXFS(dir *os.File, deviceBytes uint64) error {
	var geometry xfsGeometry
	if err := ioctl(dir, xfsIocFSGeometryV1, unsafe.Pointer(&geometry)); err != nil {
		return fmt.Errorf("read geometry: %w", err)
	}
	grow := xfsGrowData{newblocks: deviceBytes / uint64(geometry.blocksize), imaxpct: geometry.imaxpct}
	if grow.newblocks <= geometry.datablocks {
		return nil
	}
	return ioctl(dir, xfsIocFSGrowFSData, unsafe.Pointer(&grow))
}

func growBtrfs(dir *os.File) error {
	var args btrfsVolArgs
	copy(args.name[:], btrfsGrowToDevice)
	return ioctl(dir, btrfsIocResize, unsafe.Pointer(&args))
}

func ioctl(f *os.File, request uintptr, argument unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(argument)); errno != 0 {
		return errno
	}
	return nil
}

// xfsUUID reads the identity of the xfs on a device.
func xfsUUID(node string) (uuid [16]byte, err error) {
	f, err := os.Open(node)
	if err != nil {
		return uuid, err
	}
	defer f.Close()
	const at = 32
	_, err = f.ReadAt(uuid[:], at)
	return uuid, err
}
