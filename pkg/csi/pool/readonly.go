package pool

import (
	"fmt"
	"os"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/condition"
)

// isReadOnly reports whether the file system of an open folder takes no writes. What cannot be found out is no.
func isReadOnly(dir *os.File, fs unix.Statfs_t) bool {
	if fs.Flags&unix.ST_RDONLY != 0 {
		return true
	}
	id, found := mountID(dir)
	if !found {
		return false
	}
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return m.ID != id, m.ID == id })
	return err == nil && len(mounts) == 1 && condition.WentReadOnly(mounts[0].VFSOptions)
}

// mountID is the number that mountinfo has for the mount in which the folder was opened.
func mountID(dir *os.File) (id int, found bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", dir.Fd()))
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		if n, _ := fmt.Sscanf(line, "mnt_id: %d", &id); n == 1 {
			return id, true
		}
	}
	return 0, false
}
