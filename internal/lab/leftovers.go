package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// settleTime is how long the kernel and asynchronous ends (a killed process, a lazy unmount) may take before
// something still there counts as left over.
const settleTime = 20 * time.Second

// leftoverError is for callers that can only return an error.
func leftoverError(left []string) error {
	if len(left) == 0 {
		return nil
	}
	return fmt.Errorf("left over: %s", strings.Join(left, "; "))
}

// leftoversInside looks for what is left of the run while its namespaces still exist, after everything that was
// started by name has been stopped.
func (l *Lab) leftoversInside() ([]string, error) {
	deadline := time.Now().Add(settleTime)
	for {
		left, err := l.survey()
		if err != nil || len(left) == 0 || time.Now().After(deadline) {
			return left, err
		}
		time.Sleep(settleTime / 200)
	}
}

// Survey lists, while the lab runs, all that Close would look for, without the numbers of processes: what a later
// Survey has beyond an earlier one has been left over meanwhile.
func (l *Lab) Survey() ([]string, error) {
	all, err := l.survey()
	for i, line := range all {
		if rest, ok := strings.CutPrefix(line, "process "); ok {
			_, command, _ := strings.Cut(rest, ": ")
			all[i] = "process: " + command
		}
	}
	return all, err
}

// survey is one look: processes, mounts, loop devices, files in the watched folders, tasks of containerd, cgroups.
func (l *Lab) survey() ([]string, error) {
	var left []string
	pids, err := l.ns.pids()
	if err != nil {
		return nil, err
	}
	for _, pid := range pids {
		const enough = 200
		line := commandLine(pid)
		left = append(left, fmt.Sprintf("process %d: %.*s", pid, enough, line))
	}
	// Mounts in other namespaces end with the last process there, and every process is looked for above.
	now, err := readMounts(l.ns.init.Process.Pid)
	if err != nil {
		return nil, err
	}
	for _, m := range now {
		if !slices.Contains(l.before, m) {
			left = append(left, "mount: "+m.String())
		}
	}
	loops, err := loopsBelow(l.Dir)
	if err != nil {
		return nil, err
	}
	for _, one := range loops {
		left = append(left, one.String())
	}
	tasks, _ := filepath.Glob(filepath.Join(l.Dir, "state/io.containerd.runtime.v2.task/*/*"))
	for _, task := range tasks {
		left = append(left, "containerd task: "+task)
	}
	for _, dir := range l.watched {
		files, err := l.filesBelow(dir)
		if err != nil {
			return nil, err
		}
		left = append(left, files...)
	}
	return append(left, cgroupsBelow(cgroupOf(l.Dir))...), nil
}

// filesBelow lists everything that is not a folder, in a folder as the lab sees it.
func (l *Lab) filesBelow(dir string) ([]string, error) {
	var left []string
	outside := l.ns.path("/")
	err := filepath.WalkDir(l.ns.path(dir), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
			return err
		}
		inside := "/" + strings.TrimPrefix(strings.TrimPrefix(path, outside), "/")
		for _, known := range l.stays {
			if ok, _ := filepath.Match(known, inside); ok {
				if d.IsDir() {
					return fs.SkipDir
				}
				return nil
			}
		}
		if d.IsDir() {
			return nil
		}
		left = append(left, kindOf(d.Type())+": "+inside)
		return nil
	})
	return left, err
}

func kindOf(mode fs.FileMode) string {
	switch {
	case mode&fs.ModeSocket != 0:
		return "socket"
	case mode&fs.ModeNamedPipe != 0:
		return "pipe"
	case mode&fs.ModeSymlink != 0:
		return "link"
	default:
		return "file"
	}
}

// leftoversOutside looks over the whole host for what still belongs to the run in dir after its namespaces have
// ended: processes by their environment, mounts in any namespace, loop devices, cgroups, the folder itself.
func leftoversOutside(dir string) ([]string, error) {
	var left []string
	if dir == "" {
		return nil, nil
	}
	environs, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return nil, err
	}
	for _, path := range environs {
		environ, err := os.ReadFile(path)
		if err == nil && slices.Contains(strings.Split(string(environ), "\x00"), environMark+"="+dir) {
			left = append(left, "process "+strings.Split(path, "/")[2]+" has outlived the lab")
		}
	}
	err = everyMount(func(pid int, m mount) {
		if isBelow(m.point, dir) || isBelow(m.source, dir) {
			left = append(left, fmt.Sprintf("mount: %s, seen by process %d, has outlived the lab", m, pid))
		}
	})
	if err != nil {
		return nil, err
	}
	loops, err := loopsBelow(dir)
	if err != nil {
		return nil, err
	}
	for _, one := range loops {
		left = append(left, fmt.Sprintf("%v has outlived the lab", one))
	}
	if _, err := os.Lstat(dir); err == nil {
		left = append(left, "folder: "+dir)
	}
	return append(left, cgroupsOf(cgroupOf(dir))...), nil
}
