package lab

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// cgroupOf is the cgroup under which the lab's pods are put, as the CRI wants it.
func cgroupOf(dir string) string { return "/" + filepath.Base(dir) }

// cgroupsOf lists the folders of a cgroup: one in every hierarchy of version 1, and in version 2.
func cgroupsOf(cgroup string) []string {
	all, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup/*", cgroup))
	if own := filepath.Join("/sys/fs/cgroup", cgroup); isDir(own) {
		all = append(all, own)
	}
	for i, dir := range all {
		all[i] = "cgroup: " + dir
	}
	return all
}

// cgroupsBelow lists the cgroups of pods and containers that are still there.
func cgroupsBelow(cgroup string) []string {
	var left []string
	for _, dir := range cgroupsOf(cgroup) {
		children, _ := filepath.Glob(filepath.Join(dir[len("cgroup: "):], "*"))
		for _, child := range children {
			if isDir(child) {
				left = append(left, "cgroup: "+child)
			}
		}
	}
	return left
}

// removeCgroups removes a cgroup and those below it, as kubelet does for a pod. Their processes have ended.
func removeCgroups(cgroup string) {
	for _, dir := range cgroupsOf(cgroup) {
		var dirs []string
		_ = filepath.WalkDir(dir[len("cgroup: "):], func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, d := range slices.Backward(dirs) {
			_ = os.Remove(d)
		}
	}
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
