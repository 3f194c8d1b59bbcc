package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// mount is what makes a mount the same one in two readings.
type mount struct {
	point, root, source, fstype string
	major, minor                int
}

func (m mount) String() string {
	return fmt.Sprintf("%s on %s (%s, from %s)", m.source, m.point, m.fstype, m.root)
}

// readMounts reads the mounts that a process sees. A process that has ended has none.
func readMounts(pid int) ([]mount, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return nil, ignoreGone(err)
	}
	defer f.Close()
	infos, err := mountinfo.GetMountsFromReader(f, nil)
	if err != nil {
		return nil, ignoreGone(err)
	}
	mounts := make([]mount, 0, len(infos))
	for _, i := range infos {
		mounts = append(mounts, mount{i.Mountpoint, i.Root, i.Source, i.FSType, i.Major, i.Minor})
	}
	return mounts, nil
}

// everyMount calls visit for the mounts of every mount namespace of the host that a process lives in.
func everyMount(visit func(pid int, m mount)) error {
	pids, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, dir := range pids {
		ns, err := os.Readlink(filepath.Join(dir, "ns/mnt"))
		if err != nil || seen[ns] {
			continue // the process has ended
		}
		pid, _ := strconv.Atoi(filepath.Base(dir))
		mounts, err := readMounts(pid)
		if err != nil {
			return err
		}
		// Marked only when something was read: of two processes in a namespace the first may just have ended.
		seen[ns] = len(mounts) > 0
		for _, m := range mounts {
			visit(pid, m)
		}
	}
	return nil
}

// MountsOf lists every mount on the host, in whatever mount namespace, of a volume with this backing file or device:
// of a file system on it, of the file itself, on one of the folders where an orchestrator expects the volume, or of
// such a folder somewhere else. One line each.
func (l *Lab) MountsOf(backing string, folders ...string) ([]string, error) {
	loops, err := loopsOf(func(b string) bool { return b == backing })
	if err != nil {
		return nil, err
	}
	inside, err := readMounts(l.ns.init.Process.Pid)
	if err != nil {
		return nil, err
	}
	var found []string
	err = everyMount(func(pid int, m mount) {
		is := m.source == backing || slices.ContainsFunc(loops, func(l loop) bool { return l.device == m.source })
		for _, path := range append(folders, backing) {
			is = is || m.point == path || m.shows(path, inside)
		}
		if is {
			found = append(found, fmt.Sprintf("%s, seen by process %d", m, pid))
		}
	})
	return found, err
}

// shows says whether m is a bind mount of path, or of something below it, given the mounts where path was looked up.
func (m mount) shows(path string, mounts []mount) bool {
	var under mount
	for _, c := range mounts {
		if isBelow(path, c.point) && len(c.point) >= len(under.point) {
			under = c
		}
	}
	rel, err := filepath.Rel(under.point, path)
	if err != nil || m.major != under.major || m.minor != under.minor {
		return false
	}
	return isBelow(m.root, filepath.Join(under.root, rel))
}

func isBelow(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// ignoreGone hides that a process ended while its files in /proc were read.
func ignoreGone(err error) error {
	if errors.Is(err, os.ErrNotExist) || strings.Contains(err.Error(), "no such process") ||
		strings.Contains(err.Error(), "invalid argument") {
		return nil
	}
	return err
}
