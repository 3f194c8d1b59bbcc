package volume

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// copying is a copy that a test ends.
type copying struct {
	once sync.Once
	done chan struct{}
	err  error
}

func newCopying() *copying { return &copying{done: make(chan struct{})} }

func (c *copying) end(err error) {
	c.once.Do(func() { c.err = err; close(c.done) })
}

func (c *copying) Done() <-chan struct{} { return c.done }

func (c *copying) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

func (c *copying) Progress(context.Context) (int64, int64, error) { return 1, 2, nil }

func (c *copying) Cancel(context.Context) error {
	c.end(vm.ErrCopyEnded)
	return nil
}

func TestACopyIsKnownByItsVolumeAndID(t *testing.T) {
	h := newHost(t)
	device, _ := h.attached(nil)
	started, err := h.set.StartCopy(t.Context(), device, "/target")
	if err != nil || h.machine.copiedTo != "/target" {
		t.Fatal(err, h.machine.copiedTo)
	}
	if s, err := h.set.Copy(t.Context(), device, started.ID); err != nil || s.Done || s.CopiedBytes != 1 || s.TotalBytes != 2 {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := h.set.Copy(t.Context(), device, started.ID+1); !errors.Is(err, ErrNoCopy) {
		t.Errorf("another id: %v", err)
	}
	if _, err := h.set.Copy(t.Context(), h.device("other"), started.ID); err == nil {
		t.Error("another volume has the copy too")
	}
	if _, err := h.set.StartCopy(t.Context(), device, "/target"); !errors.Is(err, vm.ErrCopying) {
		t.Errorf("a second one: %v", err)
	}
	if s, err := h.set.CancelCopy(t.Context(), device, started.ID); err != nil || !s.Done || s.Failed == "" {
		t.Errorf("cancelled: %+v, %v", s, err)
	}
	if s, err := h.set.Copy(t.Context(), device, started.ID); err != nil || !s.Done {
		t.Errorf("after its end: %+v, %v", s, err)
	}
}

func TestACopyThatNobodyAsksAfterIsGivenUp(t *testing.T) {
	for name, asked := range map[string]bool{"asked after": true, "forgotten": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var s copies
				c := newCopying()
				id := s.add(&disk{}, c, func(uint64) { _ = c.Cancel(t.Context()) })
				for range 10 {
					time.Sleep(directvolume.CopyLease * 3 / 4)
					if asked && s.extend(id) == nil {
						t.Fatal("it is gone")
					}
				}
				synctest.Wait()
				if asked != (c.Err() == nil) || asked != (s.extend(id) != nil) {
					t.Errorf("ended with %v", c.Err())
				}
				c.end(nil)
				time.Sleep(2 * directvolume.CopyLease)
				if s.extend(id) != nil {
					t.Error("one that has ended is kept for ever")
				}
			})
		})
	}
}
