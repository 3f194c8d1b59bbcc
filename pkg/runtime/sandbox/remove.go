package sandbox

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/agentclient"
)

// removeTimeout bounds what the guest may take to end a container and unmount its volumes.
const removeTimeout = 30 * time.Second

// RemoveContainer ends what is left of the container and gives back all it used: the agent unmounts, then its volumes
// are unplugged or kept for the next container, then its files are no longer shared. It is idempotent; what fails is
// tried again by the next call, and by Stop.
func (s *Sandbox) RemoveContainer(ctx context.Context, id string) error {
	c, err := s.container(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := c.changing.Acquire(ctx, 1); err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	defer c.changing.Release(1)
	if now, err := s.container(id); err != nil || now != c {
		return nil // it was not made after all, or somebody else has removed it
	}
	if err := s.removeInGuest(ctx, c); err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	if err := s.detach(ctx, id); err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	if err := s.unshare(ctx, id); err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	s.forget(c)
	return nil
}

// removeInGuest has the agent kill the container, unmount what it used and forget it. One that the agent does not
// have is removed already; and where the machine is gone, everything is.
func (s *Sandbox) removeInGuest(ctx context.Context, c *container) error {
	if s.gone() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	_, err := s.agent.SignalProcess(ctx, &agentproto.SignalProcessRequest{
		ContainerId: c.id, Signal: uint32(syscall.SIGKILL)}) // no exec id: all of them
	if err != nil && !isAnswer(err) {
		return s.unlessGone(err)
	}
	_, err = s.agent.RemoveContainer(ctx, &agentproto.RemoveContainerRequest{
		ContainerId: c.id, Timeout: uint32(removeTimeout / time.Second)})
	if err == nil || unknownToAgent(err) {
		return nil
	}
	return s.unlessGone(err)
}

func isAnswer(err error) bool {
	var answer *agentclient.Error
	return errors.As(err, &answer)
}

// unknownToAgent: ours says NOT_FOUND for a container it does not have, Kata's INVALID_ARGUMENT.
func unknownToAgent(err error) bool {
	return agentclient.IsCode(err, codes.NotFound) || agentclient.IsCode(err, codes.InvalidArgument)
}

// unlessGone is nil if the machine has gone meanwhile, and with it all that was to be removed.
func (s *Sandbox) unlessGone(err error) error {
	if s.gone() {
		return nil
	}
	return err
}
