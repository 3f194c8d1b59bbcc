package filesystem

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/mkfs"
)

// MountDistinct is Mount, but a btrfs whose twin is mounted, a copy with the
// same identity, gets a new identity first: the kernel tells file systems of
// this type apart by nothing else, and refuses the second. Only the superblocks
// are written for that. One that is read-only is refused.
func MountDistinct(ctx context.Context, tools Tools, source, target, fstype string, options MountOptions) error {
	err := Mount(source, target, fstype, options)
	if fstype != "btrfs" || !errors.Is(err, unix.EEXIST) {
		return err
	}
	if options.ReadOnly() {
		return fmt.Errorf("a copy of the file system, with the same identity, is mounted already, and this one is read-only: %w", err)
	}
	output, status, toolErr := tools.run(ctx, "btrfstune", "-f", "-m", source)
	if toolErr != nil {
		return errors.Join(err, fmt.Errorf("give the file system on %s a new identity: %w", source, toolErr))
	}
	if status != 0 {
		return errors.Join(err, fmt.Errorf("give the file system on %s a new identity: btrfstune failed with status %d: %s",
			source, status, mkfs.OneLine(output)))
	}
	return Mount(source, target, fstype, options)
}
