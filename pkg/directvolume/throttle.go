package directvolume

import (
	"context"
	"fmt"
)

// PathThrottle is a path of the management socket that Kata does not have, as those in freeze.go. It takes a
// ThrottleRequest and answers "{}".
const PathThrottle = "/direct-volume/throttle"

// ThrottleRequest is the body of PathThrottle.
type ThrottleRequest struct {
	// VolumePath is the host device of the record, as in ResizeRequest.
	VolumePath string
	// Limits are all that hold from then on; those that are not given are none.
	Limits Limits
}

// Throttle makes limits, all of them, hold for the volume on the device while it is in use. They last as long as the
// machine: the record tells the next one.
//
// ErrNotOffered when the runtime cannot.
func (c *Client) Throttle(ctx context.Context, device string, limits Limits) error {
	var answer struct{}
	if err := c.ask(ctx, PathThrottle, ThrottleRequest{VolumePath: device, Limits: limits}, &answer); err != nil {
		return fmt.Errorf("throttle %s in sandbox %s: %w", device, c.sandboxID, err)
	}
	return nil
}
