package pool

import (
	"os"

	"golang.org/x/sys/unix"
)

// topDir is the file attribute "T" of chattr(1).
const topDir = 0x00020000

// spread asks ext4 to put the folders in the pool far from each other, as it does with those of the root and not with
// others: volumes have nothing to do with each other, each grows where there is room around it, and those that are made at
// once do not wait for the same blocks of inodes. Other file systems know no such wish.
func spread(root *os.File) {
	flags, err := unix.IoctlGetInt(int(root.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil && flags&topDir == 0 {
		_ = unix.IoctlSetPointerInt(int(root.Fd()), unix.FS_IOC_SETFLAGS, flags|topDir)
	}
}
