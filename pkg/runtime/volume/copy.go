package volume

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// ErrNoCopy says that the volume is not being copied, or not under that id. A copy that nobody has asked after for
// directvolume.CopyLease is none any more.
var ErrNoCopy = errors.New("no such copy of the volume")

// cancelTimeout bounds the cancelling of a copy that nobody asks after.
const cancelTimeout = 10 * time.Second

// copies are the copies of disks under way, and those that have ended and may be asked after. The zero value is ready.
type copies struct {
	mu    sync.Mutex
	count uint64
	byID  map[uint64]*diskCopy // guarded by mu
}

type diskCopy struct {
	vm.DiskCopy
	disk  *disk
	lease *time.Timer
}

// StartCopy has the machine copy the disk of the volume into a host file, as it is now. Somebody has to ask after it
// at least every directvolume.CopyLease, or it is cancelled: he has died.
//
// ErrUnknown, vm.ErrCopying, directvolume.ErrDevice, or what the machine said.
func (s *Set) StartCopy(ctx context.Context, device, target string) (directvolume.CopyState, error) {
	d, err := s.lookup(device)
	if err != nil {
		return directvolume.CopyState{}, err
	}
	if err := d.busy.Acquire(ctx, 1); err != nil {
		return directvolume.CopyState{}, err
	}
	defer d.busy.Release(1)
	started, err := s.Disks.CopyDisk(ctx, d.id, target)
	if err != nil {
		return directvolume.CopyState{}, fmt.Errorf("copy %s: %w", device, err)
	}
	id := s.copies.add(d, started, func(id uint64) {
		s.Log.Warn("nobody asks after the copy of a direct volume any more; it is given up", "device", device, "copy", id)
		ctx, cancel := context.WithTimeout(context.Background(), cancelTimeout)
		defer cancel()
		if err := started.Cancel(ctx); err != nil {
			s.Log.Error("the copy of a direct volume cannot be cancelled", "device", device, "copy", id, "error", err)
		}
	})
	s.Log.Info("direct volume is being copied", "device", device, "disk", d.id, "copy", id, "target", target)
	return directvolume.CopyState{ID: id}, nil
}

// Copy says how far a copy is, and keeps it going. One that has ended stays known for a while.
func (s *Set) Copy(ctx context.Context, device string, id uint64) (directvolume.CopyState, error) {
	c, err := s.lookupCopy(device, id)
	if err != nil {
		return directvolume.CopyState{}, err
	}
	return c.state(ctx, id)
}

// CancelCopy ends a copy. It returns when nobody writes to its target any more.
func (s *Set) CancelCopy(ctx context.Context, device string, id uint64) (directvolume.CopyState, error) {
	c, err := s.lookupCopy(device, id)
	if err != nil {
		return directvolume.CopyState{}, err
	}
	if err := c.Cancel(ctx); err != nil {
		return directvolume.CopyState{}, fmt.Errorf("cancel the copy of %s: %w", device, err)
	}
	return c.state(ctx, id)
}

func (s *Set) lookupCopy(device string, id uint64) (*diskCopy, error) {
	d, err := s.lookup(device)
	if err != nil {
		return nil, err
	}
	if c := s.copies.extend(id); c != nil && c.disk == d {
		return c, nil
	}
	return nil, fmt.Errorf("%w: %s, %d", ErrNoCopy, device, id)
}

func (c *diskCopy) state(ctx context.Context, id uint64) (directvolume.CopyState, error) {
	copied, total, err := c.Progress(ctx)
	state := directvolume.CopyState{ID: id, CopiedBytes: copied, TotalBytes: total}
	select {
	case <-c.Done():
		state.Done = true
		if err := c.Err(); err != nil {
			state.Failed = err.Error()
		}
		return state, nil
	default:
	}
	return state, err
}

// add takes charge of a copy. overdue is called, once, when nobody has asked after it for too long.
func (s *copies) add(d *disk, c vm.DiskCopy, overdue func(id uint64)) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID == nil {
		s.byID = map[uint64]*diskCopy{}
	}
	s.count++
	id := s.count
	s.byID[id] = &diskCopy{DiskCopy: c, disk: d, lease: time.AfterFunc(directvolume.CopyLease, func() {
		s.forget(id)
		select {
		case <-c.Done():
		default:
			overdue(id)
		}
	})}
	return id
}

// extend returns a copy, with its lease begun anew, or nil.
func (s *copies) extend(id uint64) *diskCopy {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.byID[id]
	if c == nil || !c.lease.Stop() {
		return nil
	}
	c.lease.Reset(directvolume.CopyLease)
	return c
}

func (s *copies) forget(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byID, id)
}
