package directvolume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Paths of the management socket that Kata does not have. Its shim answers them 404; a shim of ours answers 501 when
// the agent in the guest is one that cannot, and 409 when the volume is in no state for it.
const (
	PathFreeze = "/direct-volume/freeze" // takes a FreezeRequest, answers a Freeze
	PathThaw   = "/direct-volume/thaw"   // takes a ThawRequest, answers a Thaw
	PathList   = "/direct-volume/list"   // answers a list of SandboxVolume
)

// How long a volume may be frozen.
const (
	DefaultFreeze = 10 * time.Second
	MaxFreeze     = time.Minute
)

const maxListBytes = 1 << 20

// FreezeRequest is the body of PathFreeze.
type FreezeRequest struct {
	// VolumePath is the host device of the record, as in ResizeRequest.
	VolumePath string
	// LimitMilliseconds is the time after which the guest lets the volume go on by itself; 0 is DefaultFreeze. More than
	// MaxFreeze is refused.
	LimitMilliseconds uint64 `json:",omitempty"`
}

// Freeze is a volume that stands still, with everything the guest's processes have written on the device.
type Freeze struct {
	// ID is for Thaw.
	ID uint64 `json:"id"`
	// RemainingMilliseconds is how long it lasts. It is less than what was asked for when the volume was frozen already:
	// all freezes of a volume together last MaxFreeze at most.
	RemainingMilliseconds uint64 `json:"remaining_milliseconds"`
}

// ThawRequest is the body of PathThaw.
type ThawRequest struct {
	VolumePath string
	// ID is the freeze to end; 0 is whichever there is.
	ID uint64 `json:",omitempty"`
}

// Thaw is the answer to a ThawRequest. After it the volume is not frozen by that id, whatever it says.
type Thaw struct {
	// WasFrozen says that the volume stood still from the freeze until now. A copy that was made meanwhile is worth
	// nothing unless it says so.
	WasFrozen bool `json:"was_frozen"`
	// Ended is why it did not, for example because the time was over.
	Ended string `json:"ended,omitempty"`
	// FrozenMicroseconds is for how long writers waited, as the guest says; 0 if it does not.
	FrozenMicroseconds uint64 `json:"frozen_microseconds,omitempty"`
}

// SandboxVolume is one direct volume of a sandbox.
type SandboxVolume struct {
	// Device is the host's, VolumeID the CSI driver's name of the volume, VolumePaths where it is published.
	Device      string   `json:"device"`
	VolumeID    string   `json:"volume_id,omitempty"`
	VolumePaths []string `json:"volume_paths,omitempty"`
	// GuestDevice and GuestPath are the guest's: the device's node, and where it is mounted.
	GuestDevice string `json:"guest_device,omitempty"`
	GuestPath   string `json:"guest_path"`
	FSType      string `json:"fs_type,omitempty"`
	ReadOnly    bool   `json:"read_only"`
	// Containers are the ids of those that use it.
	Containers []string `json:"containers"`
	// SizeBytes is the device's, as the guest sees it.
	SizeBytes uint64           `json:"size_bytes,omitempty"`
	Usage     []VolumeUsage    `json:"usage,omitempty"`
	Condition *VolumeCondition `json:"volume_condition,omitempty"`
	Frozen    *Frozen          `json:"frozen,omitempty"`
	// Problem is why the guest's figures are missing.
	Problem string `json:"problem,omitempty"`
}

// Frozen says since when a volume stands still, and for how long it still may.
type Frozen struct {
	Since                 time.Time `json:"since"`
	RemainingMilliseconds uint64    `json:"remaining_milliseconds"`
}

// Freeze makes the volume on the device stand still in its guest for at most limit; 0 is DefaultFreeze. Writers wait.
// It thaws by itself when the time is over, when the sandbox ends, and when a container that uses it does.
//
// ErrNotOffered when the runtime or its guest cannot.
func (c *Client) Freeze(ctx context.Context, device string, limit time.Duration) (Freeze, error) {
	var answer Freeze
	request := FreezeRequest{VolumePath: device, LimitMilliseconds: uint64(limit.Milliseconds())}
	if err := c.ask(ctx, PathFreeze, request, &answer); err != nil {
		return Freeze{}, fmt.Errorf("freeze %s in sandbox %s: %w", device, c.sandboxID, err)
	}
	return answer, nil
}

// Thaw lets the volume on the device go on. A caller that has made a copy looks at WasFrozen.
func (c *Client) Thaw(ctx context.Context, device string, id uint64) (Thaw, error) {
	var answer Thaw
	if err := c.ask(ctx, PathThaw, ThawRequest{VolumePath: device, ID: id}, &answer); err != nil {
		return Thaw{}, fmt.Errorf("thaw %s in sandbox %s: %w", device, c.sandboxID, err)
	}
	return answer, nil
}

// Volumes lists the direct volumes of the sandbox.
func (c *Client) Volumes(ctx context.Context) ([]SandboxVolume, error) {
	var answer []SandboxVolume
	if err := c.ask(ctx, PathList, nil, &answer); err != nil {
		return nil, fmt.Errorf("list the volumes of sandbox %s: %w", c.sandboxID, err)
	}
	return answer, nil
}

// ask sends a request as JSON, or none, and reads the answer.
func (c *Client) ask(ctx context.Context, path string, request, answer any) error {
	s, err := c.socket()
	if err != nil {
		return err
	}
	if s.rust {
		return ErrNotOffered
	}
	method, body := http.MethodGet, []byte(nil)
	if request != nil {
		method = http.MethodPost
		if body, err = json.Marshal(request); err != nil {
			return err
		}
	}
	got, err := s.do(ctx, method, path, body, maxListBytes)
	var refusal *StatusError
	if errors.As(err, &refusal) && (refusal.Code == http.StatusNotFound || refusal.Code == http.StatusNotImplemented) {
		return fmt.Errorf("%w: %w", ErrNotOffered, err)
	}
	if err != nil {
		return err
	}
	return readAnswer(got, answer)
}

func readAnswer(got []byte, answer any) error {
	if err := json.Unmarshal(got, answer); err != nil {
		return fmt.Errorf("the shim's answer: %w", err)
	}
	return nil
}
