package directvolume

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Paths of the management socket by which a machine copies the disk of a volume as it is at one moment. Kata has none.
const (
	PathCopy       = "/direct-volume/copy"        // takes a CopyRequest, answers a CopyState; the moment has passed then
	PathCopyState  = "/direct-volume/copy-state"  // takes a CopyQuery, answers a CopyState
	PathCopyCancel = "/direct-volume/copy-cancel" // takes a CopyQuery, answers the last CopyState
)

// CopyLease is how long a copy goes on without anybody asking after it. Whoever began it has died then.
const CopyLease = 15 * time.Second

const copyPoll = 200 * time.Millisecond

// CopyRequest is the body of PathCopy.
type CopyRequest struct {
	// VolumePath is the host device of the record, as in ResizeRequest.
	VolumePath string
	// TargetPath is an absolute host path of a regular file, as large as the volume or larger, with nothing but holes in
	// it. It is a host path because whoever can connect to the socket is root on the host already.
	TargetPath string
}

// CopyQuery is the body of PathCopyState and PathCopyCancel.
type CopyQuery struct {
	VolumePath string
	// ID is the CopyState's.
	ID uint64
}

// CopyState says how far a copy is.
type CopyState struct {
	ID          uint64 `json:"id"`
	CopiedBytes int64  `json:"copied_bytes"`
	TotalBytes  int64  `json:"total_bytes"`
	// Done says that the copy has ended: well, if Failed is empty.
	Done   bool   `json:"done"`
	Failed string `json:"failed,omitempty"`
}

// ErrCopy says that a copy has ended and is not whole.
var ErrCopy = errors.New("the copy is not whole")

// Copying is a copy under way in a machine.
type Copying struct {
	client *Client
	query  CopyQuery
}

// StartCopy has the machine copy the volume on the device into the file at target, as the volume is at a moment
// before StartCopy returns, whatever is written to it later. The copy ends early when nobody waits for it.
//
// ErrNotOffered when the runtime cannot.
func (c *Client) StartCopy(ctx context.Context, device, target string) (*Copying, error) {
	var state CopyState
	if err := c.ask(ctx, PathCopy, CopyRequest{VolumePath: device, TargetPath: target}, &state); err != nil {
		return nil, fmt.Errorf("copy %s in sandbox %s: %w", device, c.sandboxID, err)
	}
	return &Copying{client: c, query: CopyQuery{VolumePath: device, ID: state.ID}}, nil
}

// State asks how far the copy is, and keeps it going.
func (c *Copying) State(ctx context.Context) (CopyState, error) {
	var state CopyState
	if err := c.client.ask(ctx, PathCopyState, c.query, &state); err != nil {
		return CopyState{}, fmt.Errorf("ask after the copy of %s in sandbox %s: %w", c.query.VolumePath, c.client.sandboxID, err)
	}
	return state, nil
}

// Wait returns nil when the copy is whole, and ErrCopy when it never will be. It is not durable yet.
func (c *Copying) Wait(ctx context.Context) error {
	for {
		state, err := c.State(ctx)
		switch {
		case err != nil:
			return err
		case state.Failed != "":
			return fmt.Errorf("copy %s in sandbox %s: %w: %s", c.query.VolumePath, c.client.sandboxID, ErrCopy, state.Failed)
		case state.Done:
			return nil
		}
		select {
		case <-time.After(copyPoll):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Cancel ends the copy. When it returns nil, nobody writes to the target any more.
func (c *Copying) Cancel(ctx context.Context) error {
	var state CopyState
	if err := c.client.ask(ctx, PathCopyCancel, c.query, &state); err != nil {
		return fmt.Errorf("cancel the copy of %s in sandbox %s: %w", c.query.VolumePath, c.client.sandboxID, err)
	}
	return nil
}
