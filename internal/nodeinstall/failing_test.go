package nodeinstall_test

import (
	"context"
	"errors"

	"github.com/katadirect/katadirect/internal/nodeinstall/restart"
)

// failing fails some times before it does its work.
type failing struct {
	times int
	then  restart.Restarter
}

func (f *failing) String() string { return "a restart that fails" }

func (f *failing) Restart(ctx context.Context) error {
	if f.times > 0 {
		f.times--
		return errors.New("systemd says failed")
	}
	return f.then.Restart(ctx)
}
