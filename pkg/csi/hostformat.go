package csi

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"github.com/katadirect/katadirect/internal/mkfs"
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

// mkfsPackages are Debian's packages of the programs, for people who lack one.
var mkfsPackages = map[string]string{"ext4": "e2fsprogs", "xfs": "xfsprogs", "btrfs": "btrfs-progs"}

// formatImage makes a file system on an image that is all holes.
func formatImage(ctx context.Context, image, fsType, options string) error {
	program, args, err := mkfs.Command(fsType, options)
	if err != nil {
		return failf(ErrInvalidArgument, "parameter %s: %w", parameterMkfsOptions, err)
	}
	output, err := runToItsEnd(ctx, program, append(args, image)...)
	switch words := mkfs.OneLine(output); {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", program, ctx.Err())
	case errors.Is(err, exec.ErrNotFound):
		return failf(ErrState, "%s is not installed on this node: install %s, or let the guest format (%s: %s)",
			program, mkfsPackages[fsType], parameterFormat, formatGuest)
	case strings.Contains(words, syscall.ENOSPC.Error()), strings.Contains(words, "No space left"):
		return failf(pool.ErrNoSpace, "%s: %w: %s", program, err, words)
	case options != "":
		return failf(ErrInvalidArgument, "%s does not take %q for this volume: %w: %s", program, options, err, words)
	default:
		return fmt.Errorf("%s: %w: %s", program, err, words)
	}
}

// runToItsEnd runs a program that does not outlive this one: a driver that is killed must leave nobody behind who
// writes to images.
func runToItsEnd(ctx context.Context, program string, args ...string) ([]byte, error) {
	// The signal comes when the thread ends that has started the program.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(cmd.Environ(), "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd.CombinedOutput()
}
