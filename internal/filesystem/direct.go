package filesystem

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// directAlign is the largest logical block of a disk that is read past the
// cache, and what the kernel may want of the address in memory then.
const directAlign = 4 * kib

// pastCache has reads of a block device go past the kernel's cache until undo
// is called: what is looked at before a format is looked at once, and in a
// guest whose processor is emulated the pages for it take longer than the disk.
// A device that cannot be read in pieces of 4 KiB, from the beginning or from
// the end, is read through the cache, and so is an image.
func pastCache(device *os.File, size int64) (undo func()) {
	nothing := func() {}
	fd := device.Fd()
	block, err := unix.IoctlGetInt(int(fd), unix.BLKSSZGET)
	if err != nil || block > directAlign || size%directAlign != 0 {
		return nothing
	}
	flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
	if err != nil {
		return nothing
	}
	if _, err := unix.FcntlInt(fd, unix.F_SETFL, flags|unix.O_DIRECT); err != nil {
		return nothing
	}
	return func() { _, _ = unix.FcntlInt(device.Fd(), unix.F_SETFL, flags) }
}

// aligned returns length bytes in memory that a read past the cache can fill.
func aligned(length int64) []byte {
	memory := make([]byte, length+directAlign)
	begin := -uintptr(unsafe.Pointer(unsafe.SliceData(memory))) & (directAlign - 1)
	return memory[begin : int64(begin)+length]
}
