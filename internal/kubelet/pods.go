package kubelet

import (
	"context"
	"errors"
	"time"
)

// patience is how long RemovePods goes on, and between its attempts it pauses.
const (
	patience = time.Minute
	pause    = time.Second
)

// RemovePods stops and removes every pod that the runtime knows. It goes on, as kubelet does, while the runtime
// refuses because an earlier call is still being taken back.
func (n *Node) RemovePods(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		err := n.removePods(ctx)
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

func (n *Node) removePods(ctx context.Context) error {
	pods, err := n.Lab.Pods(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range pods {
		errs = append(errs, p.Remove(ctx))
	}
	return errors.Join(errs...)
}
