package telemetry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/singleflight"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// probeTimeout bounds one Probe. kubelet's own checks give up after a second by default, after five as deploy/ has it; a busy
// disk, for which a Probe waits two, is no reason to end a driver.
const probeTimeout = 4 * time.Second

var (
	// errNoAnswer says that the driver is stuck or gone, which a restart can mend.
	errNoAnswer = errors.New("the driver does not answer")
	// errNotReady says that the driver answers, and says why it cannot work; a restart mends nothing.
	errNotReady = errors.New("the driver is not ready")
)

// Health checks the driver as its clients see it: by a Probe over its socket. Requests that come while a Probe is
// under way share its answer.
type Health struct {
	conn  *grpc.ClientConn
	probe singleflight.Group
}

// NewHealth checks the driver that serves on the socket at path. Nothing is connected before the first check.
func NewHealth(path string) (*Health, error) {
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("check health over %s: %w", path, err)
	}
	return &Health{conn: conn}, nil
}

// Close ends the connection to the driver.
func (h *Health) Close() error { return h.conn.Close() }

// Live returns an error when the driver does not answer in time. One that answers lives, even if it is not ready.
func (h *Health) Live(ctx context.Context) error {
	if err := h.Ready(ctx); errors.Is(err, errNoAnswer) {
		return err
	}
	return nil
}

// Ready returns an error unless the driver says that it can work.
func (h *Health) Ready(context.Context) error {
	_, err, _ := h.probe.Do("", func() (any, error) {
		// Not the request's context: others may wait for the same answer.
		ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
		defer cancel()
		return nil, judge(csi.NewIdentityClient(h.conn).Probe(ctx, &csi.ProbeRequest{}))
	})
	return err
}

func judge(answer *csi.ProbeResponse, err error) error {
	switch status.Code(err) {
	case codes.OK:
		if answer.GetReady() != nil && !answer.GetReady().GetValue() {
			return fmt.Errorf("%w yet", errNotReady)
		}
		return nil
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	return fmt.Errorf("%w: %s", errNotReady, status.Convert(err).Message())
}
