package demo

import (
	"context"
	"errors"
)

// cleanUp takes away whatever the run had made when it ended early, as kubelet and external-provisioner do: by
// asking what is there and by repeating calls, which are all idempotent, until they succeed.
func (s *session) cleanUp(ctx context.Context) error {
	if err := s.revive(ctx); err != nil {
		return err
	}
	if err := s.node.RemovePods(ctx); err != nil {
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
