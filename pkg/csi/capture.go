package csi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/katadirect/katadirect/pkg/csi/pool"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// DefaultFreezeLimit is how long a file system in use may stand still for a snapshot if nobody says otherwise.
const DefaultFreezeLimit = 5 * time.Second

// thawTimeout bounds a thaw. The guest ends a freeze by itself whatever happens here.
const thawTimeout = 10 * time.Second

// CheckFreezeLimit refuses a limit that guests do not keep.
func CheckFreezeLimit(limit time.Duration) error {
	if limit < time.Millisecond || limit > directvolume.MaxFreeze {
		return failf(ErrInvalidArgument, "a file system can be frozen for 1ms to %s, not for %s", directvolume.MaxFreeze, limit)
	}
	return nil
}

// capturer brings what volumes hold at one moment into drafts, whoever has the volumes:
//
//	nobody       the image is locked against machines, and copied
//	a machine    the guest's file system is frozen for as long as it takes to reflink the image or, where the pool's
//	             file system cannot, until QEMU has begun to copy it as it is then
//	the host     its mount is frozen, and the image reflinked, or copied
//
// Whatever was frozen is thawed on every way out, and a copy counts only if everything stood still all the while.
type capturer struct {
	pool        *pool.Pool
	records     records
	guests      guests
	freezeLimit time.Duration
	froze       func(howLong time.Duration) // is told of every time that volumes in use stood still
	log         *slog.Logger
}

// capture is one volume, and the draft that is to hold what it does.
type capture struct {
	volumeID string
	draft    *pool.Draft
}

// holder is who has a volume, and can hold it still.
type holder interface {
	// prepare does what can be done before anything stands still.
	prepare(ctx context.Context) error
	// freeze makes the volume stand still for at most limit.
	freeze(ctx context.Context, limit time.Duration) error
	// mark makes sure of what the volume holds at this moment. It takes no longer than it must.
	mark(ctx context.Context) error
	// thaw lets the volume go on, and returns an error unless it stood still from freeze until now. It does nothing for
	// one that is not frozen.
	thaw(ctx context.Context) error
	// finish waits until the draft holds what was marked.
	finish(ctx context.Context) error
	// release undoes what prepare and mark have begun, if finish did not end it. It comes last.
	release(ctx context.Context)
}

// capture returns when all drafts hold what their volumes held at one moment, of which it tells as soon as that has
// passed.
func (c *capturer) capture(ctx context.Context, limit time.Duration, all []capture, cut func(time.Time)) error {
	var holders []holder
	for _, one := range all {
		h, err := c.holderOf(ctx, one)
		if err != nil {
			return err
		}
		defer h.release(context.WithoutCancel(ctx))
		if err := h.prepare(ctx); err != nil {
			return fmt.Errorf("volume %s: %w", one.volumeID, err)
		}
		holders = append(holders, h)
	}
	created, err := c.still(ctx, limit, holders)
	if err != nil {
		return err
	}
	cut(created)
	// All at once: a machine's copy has to be asked after all the time. One that fails ends the others.
	group, ctx := errgroup.WithContext(ctx)
	for _, h := range holders {
		group.Go(func() error { return h.finish(ctx) })
	}
	return group.Wait()
}

// still freezes, marks and thaws, and returns the moment. Freezing and marking have limit together; what is frozen keeps
// the same limit by itself, and tells at the thaw if it was over.
func (c *capturer) still(ctx context.Context, limit time.Duration, holders []holder) (created time.Time, err error) {
	began := time.Now()
	defer func() {
		// Also what the caller gave up on, and what did not answer: it may have frozen all the same.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawTimeout)
		defer cancel()
		thawErr := together(ctx, holders, holder.thaw)
		if slices.ContainsFunc(holders, inUse) {
			c.froze(time.Since(began))
		}
		c.log.InfoContext(ctx, "volumes were held still", "volumes", len(holders), "took", time.Since(began))
		if err == nil {
			err = thawErr
		}
	}()
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	freeze := func(h holder, ctx context.Context) error { return h.freeze(ctx, limit) }
	if err := together(limited, holders, freeze); err != nil {
		return time.Time{}, overdue(err, limit)
	}
	created = time.Now()
	return created, overdue(together(limited, holders, holder.mark), limit)
}

// inUse reports whether anybody waits while the holder keeps its volume still.
func inUse(h holder) bool {
	_, idle := h.(*nobody)
	return !idle
}

// overdue says what it means that the time was over.
func overdue(err error, limit time.Duration) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return failf(ErrGuest, "the snapshot was not taken: it would have held the volume still for longer than %s: %w", limit, err)
	}
	return err
}

// together does one step of all holders at the same time, and waits for all.
func together(ctx context.Context, holders []holder, step func(holder, context.Context) error) error {
	var group errgroup.Group
	for _, h := range holders {
		group.Go(func() error { return step(h, ctx) })
	}
	return group.Wait()
}

// holderOf finds out who has the volume.
func (c *capturer) holderOf(ctx context.Context, one capture) (holder, error) {
	v, err := c.pool.Get(ctx, one.volumeID)
	if err != nil {
		return nil, err
	}
	publications, err := c.records.of(ctx, v)
	if err != nil {
		return nil, err
	}
	for _, p := range publications {
		if len(p.sandboxes) > 0 {
			return &guestHolder{
				volumeID: v.ID, draft: one.draft, record: p.record, sandbox: p.sandboxes[0],
				client: c.guests.client(p.sandboxes[0]), reflinks: c.pool.Reflinks(), log: c.log,
			}, nil
		}
	}
	mounted, err := hostHolderOf(v, one.draft, c.pool.Reflinks())
	if err != nil {
		return nil, err
	}
	if mounted != nil {
		return mounted, nil
	}
	return &nobody{draft: one.draft, reflinks: c.pool.Reflinks()}, nil
}

// nobody is the holder of a volume that is not in use. A machine that wants it meanwhile is refused by the image's
// lock, and its container is tried again.
type nobody struct {
	draft    *pool.Draft
	reflinks bool
}

func (n *nobody) prepare(context.Context) error {
	if err := n.draft.LockSource(); err != nil {
		return fmt.Errorf("no record says which machine has it, so nobody can be asked to hold it still: %w", err)
	}
	return nil
}

func (n *nobody) freeze(context.Context, time.Duration) error { return nil }

func (n *nobody) mark(context.Context) error {
	if n.reflinks {
		return n.draft.Reflink()
	}
	return nil
}

func (n *nobody) thaw(context.Context) error { return nil }

func (n *nobody) finish(ctx context.Context) error {
	if n.reflinks {
		return nil
	}
	return n.draft.Copy(ctx)
}

func (n *nobody) release(context.Context) {} // the lock goes with the draft
