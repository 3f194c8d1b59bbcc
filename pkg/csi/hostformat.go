package csi

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/filesystem"
	"github.com/katadirect/katadirect/pkg/csi/pool"
)

// parameterFormat says who makes the file system: the guest, at the volume's first use, or the host, when the volume is
// made. The host is for runtimes whose agent cannot.
const (
	parameterFormat = "katadirect.io/format"
	formatGuest     = "guest"
	formatHost      = "host"
)

func readFormat(p *parameters, value string) error {
	if value != formatGuest && value != formatHost {
		return fmt.Errorf("%q is neither %q nor %q", value, formatGuest, formatHost)
	}
	p.formatOnHost = value == formatHost
	return nil
}

// makeFormatted makes a volume with a file system in it, or returns the one that an earlier call has made. No machine
// can have had the image: it gets the volume's name only when all is done and durable. What a crash leaves before that
// is not a volume, and is removed when the pool is opened.
func (c *controller) makeFormatted(ctx context.Context, spec pool.Spec, mkfsOptions string) (pool.Volume, error) {
	v, found, err := c.pool.FindVolume(spec)
	if found || err != nil {
		return v, err
	}
	d, err := c.pool.BeginFreshVolume(ctx, spec)
	if err != nil {
		return pool.Volume{}, err
	}
	defer c.discard(ctx, d)
	if err := formatImage(ctx, d.ImagePath(), spec.FSType, mkfsOptions); err != nil {
		return pool.Volume{}, fmt.Errorf("create volume %q: %w", spec.Name, err)
	}
	if err := d.MarkHostOnly(); err != nil {
		return pool.Volume{}, fmt.Errorf("create volume %q: %w", spec.Name, err)
	}
	return d.FinishVolume()
}

// formatImage makes a file system on an image that is all holes.
func formatImage(ctx context.Context, image, fsType, options string) error {
	err := filesystem.Formatter{Tools: filesystem.HostTools}.Make(ctx, image, fsType, filesystem.How{Options: options})
	if errors.Is(err, filesystem.ErrNoProgram) {
		return fmt.Errorf("%w; or let the guest format (%s: %s)", err, parameterFormat, formatGuest)
	}
	return orFull(err, image)
}

// orFull says of an error that the disk is full, if it is: a loop device over an image there, and some mkfs programs,
// know I/O errors only. An error of a kind with a code of its own keeps it.
func orFull(err error, image string) error {
	const hardlyAny = 1 << 20
	var fs unix.Statfs_t
	if err == nil || unix.Statfs(image, &fs) != nil || int64(fs.Bavail)*fs.Bsize >= hardlyAny {
		return err
	}
	return fmt.Errorf("%w, and the pool's disk is full: %w", err, unix.ENOSPC)
}
