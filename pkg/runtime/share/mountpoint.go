package share

import (
	"fmt"
	"os"
	"path/filepath"
)

// MountPoint makes an empty folder in the share for a container whose root file system the guest mounts itself, and
// returns where the guest finds it. Release takes it away.
func (s *Share) MountPoint(container string) (guestPath string, err error) {
	if err := checkName(container); err != nil {
		return "", fmt.Errorf("container id %w", err)
	}
	dir := filepath.Join(s.tree.mounts(), container)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the mount point of a root file system: %w", err)
	}
	s.remember(container, place{path: dir, made: true})
	return filepath.Join(GuestDir, container), nil
}
