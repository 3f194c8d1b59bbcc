package share

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// sandboxMounts is Kata's folder in the share, and under which what is in it is counted, for what belongs to no container.
const sandboxMounts = "sandbox-mounts"

// SandboxMount shows a file or folder of the host to the guest itself, read-only, under its own name in the folder
// sandbox-mounts of the share. No container sees it by itself.
func (s *Share) SandboxMount(_ context.Context, source string) error {
	dir := filepath.Join(s.tree.mounts(), sandboxMounts)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("sandbox_bind_mounts: %w", err)
	}
	if err := s.attach(sandboxMounts, source, filepath.Join(dir, filepath.Base(source)), true); err != nil {
		return fmt.Errorf("sandbox_bind_mounts: share %s with the guest: %w", source, err)
	}
	return nil
}
