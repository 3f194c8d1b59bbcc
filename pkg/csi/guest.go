package csi

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"time"

	"github.com/katadirect/katadirect/pkg/csi/telemetry"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// resizeTimeout bounds how long an expansion waits for a guest to grow its file system.
const resizeTimeout = 60 * time.Second

// guests reaches the sandboxes that have volumes, through their shims' management sockets.
type guests struct {
	sandboxes directvolume.Sandboxes
}

func (g guests) client(sandboxID string) *directvolume.Client {
	return directvolume.NewClient(sandboxID, directvolume.WithClientSandboxes(g.sandboxes))
}

// stats asks the guest for as long as ctx says.
func (g guests) stats(ctx context.Context, sandboxID, device string) (directvolume.VolumeStats, error) {
	return g.client(sandboxID).Stats(ctx, device)
}

// resize returns when the guest's file system has grown to the device's new size. It returns ErrCannotResize when
// trying again will not help, and ErrGuest when it may.
func (g guests) resize(ctx context.Context, sandboxID, device string, sizeBytes int64) error {
	ctx, cancel := context.WithTimeout(ctx, resizeTimeout)
	defer cancel()
	ctx, end := telemetry.GuestSpan(ctx, "guest resize", sandboxID)
	err := g.client(sandboxID).Resize(ctx, device, uint64(sizeBytes))
	end(err)
	if err == nil {
		return nil
	}
	if cannotResize(err) {
		return failf(ErrCannotResize, "the runtime of sandbox %s cannot grow a volume that is in use. "+
			"The volume has %d bytes now; its file system grows when the pod is started again, in a guest whose agent can (katadirect's): %w", sandboxID, sizeBytes, err)
	}
	return failf(ErrGuest, "the volume has %d bytes now, but its guest has not grown the file system yet: %w", sizeBytes, err)
}

// throttleTimeout bounds how long a machine is waited for that is to limit a volume. No guest is asked.
const throttleTimeout = 20 * time.Second

// throttle returns when the limits hold in the machine. A sandbox that is ending has none any more. It returns
// ErrCannotLimit when trying again will not help, and ErrGuest when it may.
func (g guests) throttle(ctx context.Context, sandboxID, device string, limits directvolume.Limits) error {
	ctx, cancel := context.WithTimeout(ctx, throttleTimeout)
	defer cancel()
	ctx, end := telemetry.GuestSpan(ctx, "machine limits", sandboxID)
	err := g.client(sandboxID).Throttle(ctx, device, limits)
	end(err)
	switch {
	case err == nil, errors.Is(err, directvolume.ErrNoSandbox):
		return nil
	case errors.Is(err, directvolume.ErrNotOffered) && limits.None():
		return nil // a runtime that cannot limit has not
	case errors.Is(err, directvolume.ErrNotOffered):
		return failf(ErrCannotLimit, "the runtime of sandbox %s cannot limit a volume's I/O. The limits are kept with the volume, "+
			"and hold in a machine of a runtime that can: %w", sandboxID, err)
	}
	return failf(ErrGuest, "the limits are kept with the volume, but its machine does not have them yet: %w", err)
}

// unimplemented is how shims that are not ours word it. Kata's Go shim passes the agent's ttrpc error on as text with
// code 500, its Rust shim likewise.
var unimplemented = regexp.MustCompile(`(?i)unimplemented|not implemented|not supported`)

func cannotResize(err error) bool {
	answer := (*directvolume.StatusError)(nil)
	return errors.As(err, &answer) &&
		(answer.Code == http.StatusNotImplemented || unimplemented.MatchString(answer.Message))
}
