package nodeinstall

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Version is a version that is on the node.
type Version struct {
	Key string `json:"key"`
	// Whole is whether its installation was finished.
	Whole bool `json:"whole"`
	// Current is whether new pods get it.
	Current bool `json:"current"`
	// UsedBy are the processes that need it: shims and machines.
	UsedBy []string `json:"usedBy,omitempty"`
}

// listVersions lists what is there, with its users.
func (n *node) listVersions() ([]Version, error) {
	entries, err := n.root.ReadDir(n.versions())
	if err != nil {
		return nil, err
	}
	current := n.keyOf(n.current())
	var out []Version
	for _, e := range entries {
		if e.IsDir() {
			key := e.Name()
			out = append(out, Version{Key: key, Current: key == current, Whole: n.root.Exists(path.Join(n.version(key), manifestName))})
		}
	}
	if len(out) == 0 {
		return nil, nil
	}
	slices.SortFunc(out, func(a, b Version) int { return strings.Compare(a.Key, b.Key) })
	users, err := n.users(out)
	for i := range out {
		out[i].UsedBy = users[out[i].Key]
	}
	return out, err
}

// keyOf is the version that one of the links leads to, "" for none.
func (n *node) keyOf(link string) string {
	target, err := n.root.Readlink(link)
	if err != nil || path.Dir(target) != path.Base(n.versions()) {
		return ""
	}
	return path.Base(target)
}

// fileID tells files apart whatever the path that they are seen under.
type fileID struct{ dev, ino uint64 }

func idOf(info fs.FileInfo) (fileID, bool) {
	s, is := info.Sys().(*syscall.Stat_t)
	if !is {
		return fileID{}, false
	}
	return fileID{s.Dev, s.Ino}, true
}

// users finds the processes of the host that run a version's shim, or have its guest in their command line, as QEMU has. What cannot be looked at is an error: a wrong "nobody" takes files from under a pod.
func (n *node) users(versions []Version) (map[string][]string, error) {
	shims := map[fileID]string{}
	for _, v := range versions {
		info, err := n.root.Stat(path.Join(n.version(v.Key), "bin", shimName))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if id, ok := idOf(info); ok {
			shims[id] = v.Key
		}
	}
	proc, err := n.procDir()
	if err != nil {
		return nil, err
	}
	processes, err := os.ReadDir(proc)
	if err != nil {
		return nil, err
	}
	users := map[string][]string{}
	for _, p := range processes {
		if _, err := strconv.Atoi(p.Name()); err != nil {
			continue
		}
		keys, err := n.usedBy(filepath.Join(proc, p.Name()), shims, versions)
		if err != nil {
			return nil, fmt.Errorf("find out who uses the versions: %w", err)
		}
		for _, key := range keys {
			users[key] = append(users[key], nameOf(filepath.Join(proc, p.Name())))
		}
	}
	return users, nil
}

func (n *node) procDir() (string, error) {
	proc := n.ProcDir
	if proc == "" {
		proc = n.root.Path("/proc")
	}
	if _, err := os.Stat(filepath.Join(proc, "1", "stat")); err != nil {
		return "", fmt.Errorf("the host's processes are not to be seen at %s, so it is not known who uses the files; give the pod the host's root with its mounts: %w", proc, err)
	}
	return proc, nil
}

// usedBy are the versions that a process needs, or may need.
func (n *node) usedBy(process string, shims map[fileID]string, versions []Version) ([]string, error) {
	info, err := os.Stat(filepath.Join(process, "exe"))
	if isGone(err) {
		return nil, nil // it has ended, or is the kernel's
	}
	// Not every process lets itself be looked at, for instance where AppArmor stands between.
	hidden := errors.Is(err, fs.ErrPermission)
	if err != nil && !hidden {
		return nil, err
	}
	if !hidden {
		if id, ok := idOf(info); ok && shims[id] != "" {
			return []string{shims[id]}, nil
		}
	}
	line, err := os.ReadFile(filepath.Join(process, "cmdline"))
	if isGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var keys []string
	program, _, _ := strings.Cut(string(line), "\x00")
	for _, v := range versions {
		anyShim := hidden && path.Base(program) == shimName // of whichever version
		if anyShim || strings.Contains(string(line), n.version(v.Key)+"/guest/") {
			keys = append(keys, v.Key)
		}
	}
	return keys, nil
}

func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)
}

// nameOf names a process for a person: a shim by its sandbox.
func nameOf(process string) string {
	line, _ := os.ReadFile(filepath.Join(process, "cmdline"))
	args := strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
	name := fmt.Sprintf("%s (process %s)", filepath.Base(args[0]), filepath.Base(process))
	for i, arg := range args[:len(args)-1] {
		if arg == "-id" || arg == "--id" {
			return name + " of sandbox " + args[i+1]
		}
	}
	return name
}
