package cluster

import (
	"fmt"
	"os"
	"path/filepath"
)

// makeCgroup makes the cgroup below which kubelet puts its own: it wants it there in every hierarchy.
func makeCgroup(name string) error {
	roots := []string{"/sys/fs/cgroup"}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		roots, _ = filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
		for i := range roots {
			roots[i] = filepath.Dir(roots[i])
		}
	}
	for _, root := range roots {
		if err := os.MkdirAll(filepath.Join(root, name), 0o755); err != nil {
			return fmt.Errorf("make kubelet's cgroup: %w", err)
		}
		// Version 1 starts a cpuset empty, and nothing can run in it.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			content, err := os.ReadFile(filepath.Join(root, file))
			if err != nil {
				continue
			}
			if err := os.WriteFile(filepath.Join(root, name, file), content, 0o644); err != nil {
				return fmt.Errorf("make kubelet's cgroup: %w", err)
			}
		}
	}
	return nil
}
