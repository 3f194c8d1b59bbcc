package hostmount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/filesystem"
)

// ErrCannotGrow says that the kernel does not let this process grow a file system.
var ErrCannotGrow = errors.New("the file system cannot be grown by this process")

// Grow makes the file system mounted at a path as large as its image is, and returns when it is. It can be repeated:
// what is as large already stays as it is.
func (m *Mounts) Grow(ctx context.Context, image, path, fsType string) error {
	if err := m.loops.Grow(ctx, image); err != nil {
		return err
	}
	device, err := m.loops.Find(ctx, image)
	if err != nil {
		return err
	}
	info, err := os.Stat(image)
	if err != nil {
		return err
	}
	content, err := filesystem.Probe(device.Path)
	if err != nil {
		return err
	}
	sizeBytes := uint64(info.Size())
	if content.SizeBytes != 0 && sizeBytes < content.SizeBytes+blockBytes {
		return nil // a last part of a block is of no use
	}
	err = filesystem.Grow(path, fsType, sizeBytes)
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: growing an ext4 in use needs the capability SYS_RESOURCE: %w", ErrCannotGrow, err)
	}
	return err
}

// blockBytes is the largest block that these file systems are made with.
const blockBytes = 4 << 10

// splitOptions takes mount options apart.
func splitOptions(options string) []string { return strings.Split(options, ",") }
