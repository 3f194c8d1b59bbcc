// Package inventory says what direct volumes a node has and how they are: the records, the devices behind them, and
// what the guests that have them say. It is called by `katadirect volume`.
//
// It only looks. Repairing, releasing or removing anything must never move in here.
package inventory

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

// State is how a volume is, in one word.
type State string

// States of a volume.
const (
	StateIdle     State = "idle"     // recorded, and no living sandbox has it
	StateNormal   State = "normal"   // the guest says that all is well
	StateAbnormal State = "abnormal" // the guest says that it is not
	StateSilent   State = "silent"   // a sandbox has it, and the guest could not be asked
	StateBad      State = "bad"      // the record or the device cannot be used, or two sandboxes have it
)

// Volume is one record and what is behind it. Its JSON is read by programs: fields are added, never renamed.
type Volume struct {
	State      State  `json:"state"`
	VolumePath string `json:"volume_path"`
	VolumeID   string `json:"volume_id,omitempty"`
	// Record is missing where there is none to read.
	Record *directvolume.Record `json:"record,omitempty"`
	// Backing is what the device is: "file" or "block".
	Backing string `json:"backing,omitempty"`
	// SizeBytes is the device's size, as the host sees it now.
	SizeBytes int64 `json:"size_bytes,omitempty"`
	// AllocatedBytes is what a sparse file takes up on the host.
	AllocatedBytes int64    `json:"allocated_bytes,omitempty"`
	Sandboxes      []string `json:"sandboxes"`
	StaleClaims    []string `json:"stale_claims,omitempty"`
	// Stats is the guest's answer.
	Stats *directvolume.VolumeStats `json:"stats,omitempty"`
	// Problem says in a sentence why State is what it is.
	Problem string `json:"problem,omitempty"`
}

// Node is where to look.
type Node struct {
	Store     *directvolume.Store
	Sandboxes directvolume.Sandboxes
	// Timeout bounds each question to a guest; 3 seconds if zero. A node has many guests, and one may be stuck.
	Timeout time.Duration
}

// maxQuestions bounds how many guests are asked at once.
const maxQuestions = 16

// Volumes returns every record of the node, sorted by path.
func (n Node) Volumes(ctx context.Context) ([]Volume, error) {
	entries, err := n.Store.List(ctx)
	if err != nil {
		return nil, err
	}
	volumes := make([]Volume, len(entries))
	slots := make(chan struct{}, maxQuestions)
	var group sync.WaitGroup
	for i, entry := range entries {
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			volumes[i] = n.volume(ctx, entry)
		})
	}
	group.Wait()
	return volumes, ctx.Err()
}

// Find returns the volumes that are meant by a published path or a CSI volume id; a volume may be published at several
// paths. ErrNotFound if there is none.
func (n Node) Find(ctx context.Context, pathOrID string) ([]Volume, error) {
	entry, err := n.Store.Inspect(ctx, pathOrID)
	if err == nil {
		return []Volume{n.volume(ctx, entry)}, nil
	}
	if !errors.Is(err, directvolume.ErrNotFound) {
		return nil, err
	}
	entries, err := n.Store.List(ctx)
	if err != nil {
		return nil, err
	}
	var found []Volume
	for _, entry := range entries {
		if id := entry.Record.Metadata[directvolume.MetadataVolumeID]; id != "" && id == pathOrID {
			found = append(found, n.volume(ctx, entry))
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s is neither a published path nor a volume id: %w", pathOrID, directvolume.ErrNotFound)
	}
	return found, nil
}

// volume looks at the device behind a record, and asks the guest that has it.
func (n Node) volume(ctx context.Context, entry directvolume.Entry) Volume {
	v := Volume{State: StateIdle, VolumePath: entry.VolumePath, Sandboxes: entry.Sandboxes, StaleClaims: entry.Stale}
	if v.VolumePath == "" {
		v.VolumePath = entry.Name
	}
	if v.Sandboxes == nil {
		v.Sandboxes = []string{} // in JSON an empty list, not null
	}
	if entry.Err != nil {
		v.State, v.Problem = StateBad, entry.Err.Error()
		return v
	}
	v.Record = &entry.Record
	v.VolumeID = entry.Record.Metadata[directvolume.MetadataVolumeID]
	if err := v.look(entry.Record.Device); err != nil {
		v.State, v.Problem = StateBad, err.Error()
	}
	switch len(v.Sandboxes) {
	case 0:
	case 1:
		n.ask(ctx, &v)
	default:
		v.State, v.Problem = StateBad, fmt.Sprintf("%d sandboxes have it at once, which destroys its file system", len(v.Sandboxes))
	}
	return v
}

// ask fills in what the guest says. A device that is gone stays the problem that is shown.
func (n Node) ask(ctx context.Context, v *Volume) {
	timeout := n.Timeout
	if timeout == 0 {
		timeout = 3 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	client := directvolume.NewClient(v.Sandboxes[0], directvolume.WithClientSandboxes(n.Sandboxes))
	stats, err := client.Stats(ctx, v.Record.Device)
	state, problem := StateNormal, ""
	switch {
	case err != nil:
		state, problem = StateSilent, err.Error()
	default:
		v.Stats = &stats
		if stats.Condition.Abnormal {
			state, problem = StateAbnormal, stats.Condition.Message
		}
	}
	if v.State != StateBad {
		v.State, v.Problem = state, problem
	}
}

// look fills in what the host sees of the device.
func (v *Volume) look(device string) error {
	var stat unix.Stat_t
	if err := unix.Stat(device, &stat); err != nil {
		return fmt.Errorf("device %s: %w", device, err)
	}
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		v.Backing = directvolume.BackingFile
		v.SizeBytes, v.AllocatedBytes = stat.Size, stat.Blocks*512
		return nil
	case unix.S_IFBLK:
		v.Backing = directvolume.BackingBlock
		file, err := os.Open(device)
		if err != nil {
			return fmt.Errorf("device %s: %w", device, err)
		}
		defer file.Close()
		v.SizeBytes, err = file.Seek(0, io.SeekEnd)
		return err
	}
	return fmt.Errorf("device %s is neither a block device nor a regular file", device)
}
