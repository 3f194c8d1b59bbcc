package filesystem

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Usage is what statfs(2) says of a file system.
type Usage struct {
	// Bytes. Available is what a user without privilege can still write.
	Total, Available, Used uint64
	// Inodes; all zero where the file system makes them as it needs them
	// (btrfs).
	Inodes, InodesFree, InodesUsed uint64
}

// Measure returns the usage of the file system that path lies in.
func Measure(path string) (Usage, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return Usage{}, fmt.Errorf("measure %s: %w", path, err)
	}
	block := uint64(st.Frsize)
	if block == 0 {
		block = uint64(st.Bsize)
	}
	return Usage{
		Total:      st.Blocks * block,
		Available:  st.Bavail * block,
		Used:       (st.Blocks - st.Bfree) * block,
		Inodes:     st.Files,
		InodesFree: st.Ffree,
		InodesUsed: st.Files - st.Ffree,
	}, nil
}
