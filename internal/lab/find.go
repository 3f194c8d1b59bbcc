package lab

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// FindAll is Find that also looks into containers: their processes are in namespaces below the lab's.
func (l *Lab) FindAll(words ...string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var own unix.Stat_t
	if err := unix.Fstat(int(l.ns.ns["pid"].Fd()), &own); err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == l.InitPID() || isZombie(pid) || !inNamespace(pid, own.Ino) {
			continue
		}
		line := commandLine(pid)
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// inNamespace says whether a process is in the process namespace with that number, or in one below it.
func inNamespace(pid int, want uint64) bool {
	fd, err := unix.Open(filepath.Join("/proc", strconv.Itoa(pid), "ns/pid"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	for err == nil {
		var is unix.Stat_t
		err = unix.Fstat(fd, &is)
		parent := -1
		if err == nil && is.Ino != want {
			parent, err = unix.IoctlRetInt(fd, unix.NS_GET_PARENT) // fails at the top
		}
		_ = unix.Close(fd)
		if err == nil && parent < 0 {
			return true
		}
		fd = parent
	}
	return false
}
