package nodeinstall

import (
	"context"
	"errors"
	"fmt"

	"github.com/katadirect/katadirect/internal/nodeinstall/cristatus"
)

// reconfigure changes the runtime's configuration and restarts it, and waits until it has the handler (or no longer
// has it). If it does not come up it gets its old configuration back, and is restarted with that.
//
// A note that a restart is due is written first and removed last: whoever comes after a crash knows by it that the
// running program may not have read what is in the files.
func (n *node) reconfigure(ctx context.Context, r *Report, edits []edit, wantHandler, restart bool) error {
	if len(edits) == 0 && !restart {
		return nil
	}
	if n.DryRun {
		for _, e := range edits {
			r.Changes = append(r.Changes, e.change(n))
		}
		r.Changes = append(r.Changes, n.restartChange())
		return nil
	}
	if err := n.removeProbes(); err != nil { // of one that was killed
		return err
	}
	if wantHandler {
		if err := n.tryOut(ctx, edits, r); err != nil {
			return err
		}
	}
	// From here on the node may be without a runtime: nobody's hurry may end this half way.
	ctx = context.WithoutCancel(ctx)
	if err := n.note(); err != nil {
		return err
	}
	err := n.change(ctx, r, edits, wantHandler)
	if err != nil {
		return n.undo(ctx, r, edits, err)
	}
	return n.root.Remove(n.restartPending())
}

func (n *node) note() error {
	if err := n.root.MkdirAll(n.Prefix, 0o755); err != nil {
		return err
	}
	return n.root.WriteFile(n.restartPending(), []byte("The container runtime is to be restarted, because its configuration has changed.\n"), 0o644)
}

func (n *node) change(ctx context.Context, r *Report, edits []edit, wantHandler bool) error {
	for _, e := range edits {
		if err := n.perform(ctx, r, e.change(n)); err != nil {
			return err
		}
	}
	if err := n.perform(ctx, r, n.restartChange()); err != nil {
		return err
	}
	return n.wait(ctx, wantHandler)
}

func (n *node) restartChange() Change {
	return Change{Action: "restart", Detail: "the container runtime, by " + n.Options.Restart.String(), do: func(ctx context.Context) error {
		if n.Step != nil {
			n.Step("restart")
		}
		err := n.Options.Restart.Restart(ctx)
		if n.Step != nil {
			n.Step("restarted")
		}
		return err
	}}
}

// wait waits until the runtime answers, with the handler or without it.
func (n *node) wait(ctx context.Context, wantHandler bool) error {
	ctx, cancel := context.WithTimeout(ctx, n.WaitTimeout)
	defer cancel()
	h := n.handler()
	_, err := cristatus.Wait(ctx, n.root.Path(n.runtime.Socket), func(s cristatus.Status) error {
		has := s.Has(h.Name, h.Shim)
		switch {
		case wantHandler && !has:
			return fmt.Errorf("it does not have the runtime %q: it has %q", h.Name, s.Handlers)
		case !wantHandler && s.KnowsHandlers && has:
			return fmt.Errorf("it still has the runtime %q", h.Name)
		}
		return nil
	})
	return err
}

// undo gives the runtime its old configuration back after something has failed.
func (n *node) undo(ctx context.Context, r *Report, edits []edit, why error) error {
	n.Log.Error("the container runtime did not come up; its old configuration comes back", "error", why)
	r.Changes = append(r.Changes, Change{Action: "take back", Detail: "the configuration, and restart again"})
	if err := n.takeBack(edits); err != nil {
		return errors.Join(fmt.Errorf("%w: %w", ErrTakenBack, why), fmt.Errorf("the old configuration could NOT be put back: %w", err))
	}
	err := n.Options.Restart.Restart(ctx)
	if err == nil {
		waiting, cancel := context.WithTimeout(ctx, n.WaitTimeout)
		defer cancel()
		_, err = cristatus.Wait(waiting, n.root.Path(n.runtime.Socket), func(cristatus.Status) error { return nil })
	}
	if err != nil {
		return errors.Join(fmt.Errorf("%w: %w", ErrTakenBack, why), fmt.Errorf("the container runtime did NOT come up with its old configuration either: %w", err))
	}
	return errors.Join(fmt.Errorf("%w: %w", ErrTakenBack, why), n.root.Remove(n.restartPending()))
}
