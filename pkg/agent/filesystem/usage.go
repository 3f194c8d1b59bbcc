package filesystem

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

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

// Trouble looks at the real state of the mounted file system on device disk
// (a kernel name such as "vda"), and says in a sentence what is wrong with it;
// "" when nothing is. wantWritable says that it was mounted to be written to.
func Trouble(m Mounted, disk string, wantWritable bool) string {
	var found []string
	if m.ReadOnly && wantWritable {
		found = append(found, "the kernel has made the file system read-only after an error")
	}
	if n := errorCount(m.FSType, disk); n > 0 {
		found = append(found, fmt.Sprintf("the kernel has counted %d errors in the file system", n))
	}
	if err := readable(m.Target); err != nil {
		found = append(found, fmt.Sprintf("the file system cannot be read: %v", err))
	}
	return strings.Join(found, "; ")
}

// errorCount is ext's own count of errors since the last fsck.
func errorCount(fstype, disk string) uint64 {
	if !strings.HasPrefix(fstype, "ext") {
		return 0
	}
	data, err := os.ReadFile(filepath.Join("/sys/fs/ext4", filepath.Base(disk), "errors_count"))
	if err != nil {
		return 0 // a volume without a count has no errors to report
	}
	n, _ := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	return n
}

// readable looks into the root folder: a file system that has shut itself
// down, or whose device is gone, answers statfs and nothing else.
func readable(target string) error {
	dir, err := os.Open(target)
	if err != nil {
		return err
	}
	defer dir.Close()
	if _, err := dir.Readdirnames(1); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}
