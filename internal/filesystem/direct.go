package filesystem

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// directAlign is what the kernel may want of the address at which a read past
// its cache begins: the largest logical block of a disk.
const directAlign = 4 * kib

// pastCache has reads of a block device go past the kernel's cache until undo
// is called: what is looked at before a format is looked at once, and in a
// guest whose processor is emulated the pages for it take longer than the disk.
// Where the kernel cannot, reads go through the cache.
//
// Offsets and lengths must be whole logical blocks then, which those of
// signature areas are, counted from the beginning and from the end.
func pastCache(device *os.File, size int64) (undo func()) {
	nothing := func() {}
	if info, err := device.Stat(); err != nil || info.Mode()&os.ModeDevice == 0 || size%directAlign != 0 {
		return nothing
	}
	fd := device.Fd()
	flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
	if err != nil {
		return nothing
	}
	if _, err := unix.FcntlInt(fd, unix.F_SETFL, flags|unix.O_DIRECT); err != nil {
		return nothing
	}
	return func() { _, _ = unix.FcntlInt(fd, unix.F_SETFL, flags) }
}

// aligned returns length bytes in memory that a read past the cache can fill.
func aligned(length int64) []byte {
	memory := make([]byte, length+directAlign)
	begin := -uintptr(unsafe.Pointer(unsafe.SliceData(memory))) & (directAlign - 1)
	return memory[begin : int64(begin)+length]
}
