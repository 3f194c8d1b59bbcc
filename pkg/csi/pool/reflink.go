package pool

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// probeReflink finds out whether two files in the folder can share their blocks, with two files that have no names. A
// file system that has no such files has no shared blocks either.
func probeReflink(dir *os.File) bool {
	one, err := nameless(dir)
	if err != nil {
		return false
	}
	defer one.Close()
	other, err := nameless(dir)
	if err != nil {
		return false
	}
	defer other.Close()
	return reflink(other, one) == nil
}

func nameless(dir *os.File) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, fileMode)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "nameless"), nil
}

// reflink makes a file share all blocks of another, in one step: the file is as the other was at one moment, whoever
// writes to it (ioctl FICLONE).
func reflink(to, from *os.File) error {
	if err := unix.IoctlFileClone(int(to.Fd()), int(from.Fd())); err != nil {
		return &os.PathError{Op: "reflink", Path: from.Name(), Err: err}
	}
	return nil
}

// fiemap is struct fiemap of include/uapi/linux/fiemap.h with room for extents.
type fiemap struct {
	start, length uint64
	flags         uint32
	mapped, count uint32
	_             uint32
	extents       [fiemapExtents]fiemapExtent
}

type fiemapExtent struct {
	logical, physical, length uint64
	_                         [2]uint64
	flags                     uint32
	_                         [3]uint32
}

const (
	fiemapExtents = 256
	fsIocFiemap   = 0xc020660b
	extentLast    = 0x1
	extentShared  = 0x2000
)

// sharedBytes is how much of a file's blocks other files have too.
func sharedBytes(f *os.File) (int64, error) {
	var shared int64
	m := new(fiemap)
	for {
		m.length, m.mapped, m.count = ^uint64(0)-m.start, 0, fiemapExtents
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fsIocFiemap, uintptr(unsafe.Pointer(m))); errno != 0 {
			return 0, &os.PathError{Op: "ask for the extents of", Path: f.Name(), Err: errno}
		}
		if m.mapped == 0 {
			return shared, nil
		}
		for _, e := range m.extents[:m.mapped] {
			if e.flags&extentShared != 0 {
				shared += int64(e.length)
			}
			if e.flags&extentLast != 0 {
				return shared, nil
			}
			m.start = e.logical + e.length
		}
	}
}
