package sandbox

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/config"
	"github.com/katadirect/katadirect/pkg/runtime/sandbox/guestspec"
	"github.com/katadirect/katadirect/pkg/runtime/volume"
)

// emptyDirs is the folder, in a pod's, that kubelet keeps its emptyDir volumes in.
const emptyDirs = "volumes/kubernetes.io~empty-dir"

// prepareEmptyDir puts a disk behind the emptyDir volume that source is, or is a part of, if the configuration says
// that they live on disks of their own. From then on it is a direct volume like any other.
func (s *Sandbox) prepareEmptyDir(ctx context.Context, source string) error {
	mode := s.config.Runtime.EmptyDirMode
	// Without disks it stays in its folder; but never one that somebody wants encrypted.
	if mode != config.EmptyDirEncrypted && (mode != config.EmptyDirBlock || s.config.Hypervisor.DisableBlock) {
		return nil
	}
	dir, _, err := volume.Below(source, emptyDirs)
	if err != nil || dir == "" {
		return err
	}
	// One name for each folder, wherever kubelet's own is a link to: a part of it is known by another than the whole.
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return fmt.Errorf("emptyDir: %w", err)
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return fmt.Errorf("emptyDir %s: %w", dir, err)
	}
	if stat.Type == unix.TMPFS_MAGIC || stat.Type == unix.HUGETLBFS_MAGIC {
		return nil // it is one in memory
	}
	if mode == config.EmptyDirEncrypted {
		return fmt.Errorf("emptyDir %s: %w: emptydir_mode = %q needs a key service, which no guest of ours has; set it to %q",
			dir, guestspec.ErrUnsupported, mode, config.EmptyDirBlock)
	}
	return s.makeEmptyDir(ctx, dir)
}

// makeEmptyDir makes the disk once in the sandbox's life. It is written down first, so that whoever cleans up after
// this process knows of it.
func (s *Sandbox) makeEmptyDir(ctx context.Context, dir string) error {
	s.makingEmptyDir.Lock()
	defer s.makingEmptyDir.Unlock()
	if _, shared := s.sharedEmptyDir[dir]; shared || slices.Contains(s.state.emptyDirs(), dir) {
		return nil
	}
	if err := s.state.addEmptyDir(dir); err != nil {
		return err
	}
	err := s.volumes.MakeEphemeral(ctx, dir)
	if err == nil {
		return nil
	}
	undo := s.state.removeEmptyDir(dir)
	if errors.Is(err, volume.ErrNotEmpty) {
		// For good: the guest has the folder from now on. It could exchange an image in there, and it may empty it, and
		// then the next container would not see what the others do.
		s.sharedEmptyDir[dir] = struct{}{}
		s.log.Warn("this emptyDir stays in its folder on the host", "why", err)
		err = nil
	}
	return errors.Join(err, undo)
}

// removeEmptyDirs takes the disks of emptyDir volumes away, when nothing claims them any more.
func removeEmptyDirs(ctx context.Context, records *directvolume.Store, dirs []string) error {
	var failures []error
	for _, dir := range dirs {
		if err := volume.RemoveEphemeral(ctx, records, filepath.Clean(dir)); err != nil {
			failures = append(failures, fmt.Errorf("remove the disk of emptyDir %s: %w", dir, err))
		}
	}
	return errors.Join(failures...)
}
