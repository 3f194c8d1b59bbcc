package agentclient

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

// Features is what the agent in the guest can do beyond what every Kata agent can.
type Features struct {
	// Version is the agent's own.
	Version string
	// Seccomp: it applies seccomp profiles.
	Seccomp bool
	// ResizeVolume: it grows a mounted file system. Kata's own agent answers "unimplemented".
	ResizeVolume bool
	// FormatIfBlank: it formats a device that it has found blank, and no other.
	FormatIfBlank bool
	// GrowOnMount: it grows a file system that is smaller than its device when it mounts it.
	GrowOnMount bool
	// Freeze: it has the calls Freeze, Thaw and List of katadirect.volumes.v1.Volumes.
	Freeze bool
	// Console: it has katadirect.console.v1.Console, and was booted with it.
	Console bool
	// SubPath: it mounts a part of a volume, made if it is missing, without following links out of the volume.
	SubPath bool
	// DeviceRules: it applies the device cgroup rules that it is sent, and adds those for the disks it is told of.
	DeviceRules bool
	// Output: it has katadirect.output.v1.Output, and serves it whatever the ids.
	Output bool
	// Ports: it has katadirect.ports.v1.Ports.
	Ports bool
}

// Names under which the agent tells its features, in AgentDetails.extra_features.
const (
	featureResizeVolume  = "katadirect.resize-volume"
	featureFormatIfBlank = "katadirect.format-if-blank"
	featureGrowOnMount   = "katadirect.grow-on-mount"
	featureFreeze        = "katadirect.freeze"
	featureConsole       = "katadirect.console"
	featureSubPath       = "katadirect.subpath"
	featureDeviceRules   = "katadirect.device-rules"
	featureOutput        = "katadirect.output"
	featurePorts         = "katadirect.ports"
)

// Hello checks that the agent serves and asks what it can do. Until it has succeeded Features is empty.
func (c *Client) Hello(ctx context.Context) (Features, error) {
	serves := make(chan error, 1)
	go func() { serves <- c.Check(ctx) }() // beside the other: a machine's start waits for the answers
	r, err := c.GetGuestDetails(ctx, &agentproto.GuestDetailsRequest{})
	if err := <-serves; err != nil {
		return Features{}, err
	}
	if err != nil {
		return Features{}, err
	}
	d := r.GetAgentDetails()
	has := func(name string) bool { return slices.Contains(d.GetExtraFeatures(), name) }
	c.features = Features{
		Version:       readable(d.GetVersion(), 100),
		Seccomp:       d.GetSupportsSeccomp(),
		ResizeVolume:  has(featureResizeVolume),
		FormatIfBlank: has(featureFormatIfBlank),
		GrowOnMount:   has(featureGrowOnMount),
		Freeze:        has(featureFreeze),
		Console:       has(featureConsole),
		SubPath:       has(featureSubPath),
		DeviceRules:   has(featureDeviceRules),
		Output:        has(featureOutput),
		Ports:         has(featurePorts),
	}
	return c.features, nil
}

// Features is what Hello found.
func (c *Client) Features() Features { return c.features }

// Check asks the agent whether it serves.
func (c *Client) Check(ctx context.Context) error {
	r, err := c.health.Check(ctx, &agentproto.CheckRequest{})
	if err != nil {
		return err
	}
	if s := r.GetStatus(); s != agentproto.HealthCheckResponse_SERVING {
		return fmt.Errorf("agent: Check: it says %s", s)
	}
	return nil
}

// Patience decides about an agent that does not answer.
type Patience interface {
	// Ask is called before each question.
	Ask()
	// Wait reports whether an agent that has not answered in time is asked again. It may be called several times in a row,
	// with an Ask before each.
	Wait() bool
}

// Watch asks the agent every period whether it serves, and returns why once it has not said so within timeout, and
// patience is at its end, or has hung up. It returns nil when ctx ends.
func (c *Client) Watch(ctx context.Context, period, timeout time.Duration, patience Patience) error {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.gone:
			return c.lost()
		case <-tick.C:
		}
		patience.Ask()
		err := c.checkWithin(ctx, timeout)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return nil
		case !errors.Is(err, ErrNoAnswer) || !patience.Wait():
			return err
		}
	}
}

func (c *Client) checkWithin(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, ErrNoAnswer)
	defer cancel()
	err := c.Check(ctx)
	if IsCode(err, codes.DeadlineExceeded) {
		return fmt.Errorf("agent: Check: %w", ErrNoAnswer) // it may be the first to see that its time is over, and say so
	}
	return err
}
