package csi

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/katadirect/katadirect/pkg/csi/pool"
	"github.com/katadirect/katadirect/pkg/csi/telemetry"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// ErrCannotFreeze says that the runtime or guest that has the volume cannot hold it still while it is in use.
var ErrCannotFreeze = errors.New("the runtime cannot freeze")

// guestHolder is a machine that has a volume.
type guestHolder struct {
	volumeID string
	draft    *pool.Draft
	record   directvolume.Record
	sandbox  string
	client   *directvolume.Client
	reflinks bool
	log      *slog.Logger

	asked    bool // the guest may have frozen it
	freezeID uint64
	copying  *directvolume.Copying
	target   string
}

// still reports whether there is nothing to freeze: a guest cannot write to what is read-only, and what it does on a
// raw device only its own programs can hold still. Of the latter the image is as after a power cut.
func (g *guestHolder) still() bool {
	return slices.Contains(g.record.Options, "ro") || g.record.FSType == ""
}

func (g *guestHolder) prepare(context.Context) (err error) {
	if g.reflinks {
		return g.draft.Sync()
	}
	g.target, err = g.draft.Prepare()
	return err
}

func (g *guestHolder) freeze(ctx context.Context, limit time.Duration) error {
	if g.still() {
		return nil
	}
	g.asked = true
	ctx, end := telemetry.GuestSpan(ctx, "guest freeze", g.sandbox)
	frozen, err := g.client.Freeze(ctx, g.record.Device, limit)
	end(err)
	if err == nil {
		g.freezeID = frozen.ID
		return nil
	}
	// A refusal has frozen nothing; after trouble, or an answer that never came, nobody knows.
	refusal := (*directvolume.StatusError)(nil)
	refused := errors.As(err, &refusal) && refusal.Code != http.StatusInternalServerError
	g.asked = !refused && !errors.Is(err, directvolume.ErrNotOffered)
	return g.explain(err, "hold the file system still")
}

// explain says what a person can do about it, and whether trying again helps.
func (g *guestHolder) explain(err error, what string) error {
	switch refusal := (*directvolume.StatusError)(nil); {
	case errors.Is(err, directvolume.ErrNotOffered), cannotResize(err):
		return failf(ErrCannotFreeze, "volume %s is in use by sandbox %s, whose runtime cannot %s for a snapshot. "+
			"End the pod first, or run it with katadirect's own runtime and agent: %w", g.volumeID, g.sandbox, what, err)
	case errors.As(err, &refusal) && refusal.Code == http.StatusConflict:
		return failf(ErrGuest, "volume %s is in no state for it in sandbox %s at the moment; try again: %w", g.volumeID, g.sandbox, err)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	return failf(ErrGuest, "sandbox %s was asked to %s of volume %s: %w", g.sandbox, what, g.volumeID, err)
}

func (g *guestHolder) mark(ctx context.Context) error {
	if g.reflinks {
		return g.draft.Reflink()
	}
	copying, err := g.client.StartCopy(ctx, g.record.Device, g.target)
	if err != nil {
		return g.explain(err, "begin a copy")
	}
	g.copying = copying
	return nil
}

// thaw ends the freeze, also one whose answer never came. Only a guest that says that the volume stood still until
// now makes the copy worth something.
func (g *guestHolder) thaw(ctx context.Context) error {
	if !g.asked {
		return nil
	}
	ctx, end := telemetry.GuestSpan(ctx, "guest thaw", g.sandbox)
	thawed, err := g.client.Thaw(ctx, g.record.Device, g.freezeID)
	end(err)
	if err != nil {
		return failf(ErrGuest, "nobody knows whether volume %s stood still, so what was copied is thrown away: %w", g.volumeID, err)
	}
	g.log.InfoContext(ctx, "a guest's file system stood still", "volume", g.volumeID, "sandbox", g.sandbox,
		"whole", thawed.WasFrozen, "frozen", time.Duration(min(thawed.FrozenMicroseconds, math.MaxInt32))*time.Microsecond)
	if !thawed.WasFrozen {
		return failf(ErrGuest, "volume %s did not stand still until its copy was made: %s. What was copied is thrown away; "+
			"try again", g.volumeID, thawed.Ended)
	}
	return nil
}

func (g *guestHolder) finish(ctx context.Context) error {
	if g.copying == nil {
		return nil
	}
	err := g.copying.Wait(ctx)
	if err != nil {
		return failf(ErrGuest, "sandbox %s has not finished the copy of volume %s, so it is thrown away: %w", g.sandbox, g.volumeID, err)
	}
	g.copying = nil
	return nil
}

func (g *guestHolder) release(ctx context.Context) {
	if g.copying != nil {
		ctx, cancel := context.WithTimeout(ctx, thawTimeout)
		defer cancel()
		_ = g.copying.Cancel(ctx) // it ends by itself when nobody asks for it any more
	}
}
