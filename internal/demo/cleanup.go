package demo

import (
	"context"
	"errors"
	"time"
)

// cleanUp takes away whatever the run had made when it ended early, as kubelet and external-provisioner do: by
// asking what is there and by repeating calls, which are all idempotent, until they succeed.
func (s *session) cleanUp(ctx context.Context) error {
	if err := s.revive(ctx); err != nil {
		return err
	}
	if err := insist(ctx, s.deletePods); err != nil {
		return err
	}
	if s.volume == nil {
		return nil
	}
	if s.volume.ID == "" {
		// The interrupted call may have made the volume without our learning its id; repeated, it tells.
		if err := s.volume.Create(ctx); err != nil {
			return err
		}
	}
	for _, podUID := range s.published {
		if err := s.volume.Unpublish(ctx, podUID); err != nil {
			return err
		}
	}
	return errors.Join(s.volume.Unstage(ctx), s.volume.Delete(ctx))
}

// revive starts again what has died: nothing can be given back without the driver and containerd.
func (s *session) revive(ctx context.Context) error {
	select {
	case <-s.node.Driver().Done():
		if err := s.node.StartDriver(ctx); err != nil {
			return err
		}
	default:
	}
	select {
	case <-s.node.Lab.Containerd().Done():
		return s.node.Lab.StartContainerd(ctx)
	default:
		return nil
	}
}

func (s *session) deletePods(ctx context.Context) error {
	pods, err := s.node.Lab.Pods(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range pods {
		errs = append(errs, p.Remove(ctx))
	}
	return errors.Join(errs...)
}

// insist repeats do, which the runtime may refuse while an earlier call is still being taken back.
func insist(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		err := do(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}
