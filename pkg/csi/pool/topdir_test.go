package pool

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestFoldersOfVolumesAreSpreadOverTheDiskWhereTheFileSystemCan(t *testing.T) {
	for fsType, can := range map[string]bool{"ext4": true, "tmpfs": false} {
		t.Run(fsType, func(t *testing.T) {
			dir := mountSmall(t, fsType, 400*mib)
			for range 2 { // an older pool's too, and again
				p := open(t, dir)
				create(t, p, "pvc", 16*mib)
				closePool(t, p)
				root, err := os.Open(dir)
				if err != nil {
					t.Fatal(err)
				}
				flags, err := unix.IoctlGetInt(int(root.Fd()), unix.FS_IOC_GETFLAGS)
				if err := errors.Join(err, root.Close()); can && err != nil {
					t.Fatal(err)
				}
				if flags&topDir != 0 != can {
					t.Errorf("the pool's folder has the attributes %#x", flags)
				}
			}
		})
	}
}
