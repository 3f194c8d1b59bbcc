package filesystem

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/condition"
)

// Expected is how a mounted file system should be.
type Expected struct {
	// Writable: it was mounted to be written to.
	Writable bool
	// Frozen: it stands still, and whoever writes would wait.
	Frozen bool
}

// Problems looks at the real state of the mounted file system on device disk
// (a kernel name such as "vda"), and says what is wrong with it.
func Problems(m Mounted, disk string, want Expected) []condition.Problem {
	var found []condition.Problem
	add := func(reason, format string, args ...any) {
		found = append(found, condition.Problem{Reason: reason, Message: fmt.Sprintf(format, args...)})
	}
	n, latest := extErrors(m.FSType, disk)
	gone := m.ReadOnly
	if n > 0 && !want.Frozen { // a healthy one is not written to
		gone = gone || refusesWrites(m.Target)
	}
	if gone && want.Writable {
		add(condition.ReadOnly, "the kernel has made the file system read-only after an error, so nothing can be written to the volume. "+
			"It is checked when the pod is started again")
	}
	if n > 0 {
		add(condition.FileSystemErrors, "the kernel has counted %d errors in the file system%s. It is checked when the pod is started again", n, latest)
	}
	if counts := btrfsErrors(m.FSType, disk); counts != "" {
		add(condition.IOErrors, "btrfs has counted errors of the disk: %s", counts)
	}
	if err := readable(m.Target); err != nil {
		add(condition.Unreadable, "the file system cannot be read: %v", err)
	}
	return found
}

// refusesWrites tries to make a file without a name. In some kernels (Debian's
// 6.1 is one) an ext4 that takes no writes after an error says so nowhere: its
// options stay "rw".
func refusesWrites(target string) bool {
	fd, err := unix.Open(target, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err == nil {
		err = unix.Close(fd)
	}
	return errors.Is(err, unix.EROFS) || errors.Is(err, unix.EIO)
}

// extErrors is ext's own count of errors since the last fsck, and when the
// latest was.
func extErrors(fstype, disk string) (n uint64, latest string) {
	if !strings.HasPrefix(fstype, "ext") {
		return 0, ""
	}
	dir := filepath.Join("/sys/fs/ext4", filepath.Base(disk))
	n = number(filepath.Join(dir, "errors_count")) // a volume without a count has no errors to report
	if at := number(filepath.Join(dir, "last_error_time")); n > 0 && at > 0 && at < 1<<40 {
		latest = ", the latest at " + time.Unix(int64(at), 0).UTC().Format(time.RFC3339)
	}
	return n, latest
}

// number reads a file of sysfs; 0 for what is not there or no number.
func number(path string) uint64 {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	return n
}

// btrfsErrors are the counters of the disk that are not zero, as btrfs keeps
// them over mounts: "write_errs 3, corruption_errs 1". A volume has one device,
// which is number 1.
func btrfsErrors(fstype, disk string) string {
	if fstype != "btrfs" {
		return ""
	}
	devices, _ := filepath.Glob(filepath.Join("/sys/fs/btrfs", "*", "devices", filepath.Base(disk)))
	if len(devices) != 1 {
		return ""
	}
	stats, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(devices[0])), "devinfo", "1", "error_stats"))
	if err != nil {
		return ""
	}
	return nonZero(string(stats))
}

// nonZero keeps the lines of "name count" whose count is not 0.
func nonZero(stats string) string {
	var counts []string
	for line := range strings.Lines(stats) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[1] != "0" {
			counts = append(counts, fields[0]+" "+fields[1])
		}
	}
	return strings.Join(counts, ", ")
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
