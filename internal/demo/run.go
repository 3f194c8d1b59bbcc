package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/katadirect/katadirect/internal/kubelet"
)

// Options say how the demo runs.
type Options struct {
	// Node says what to run it on.
	Node kubelet.Options
	// Out receives the steps as they happen. A terminal gets a moving line.
	Out io.Writer
	// Before, if set, is called before each step; what it returns ends the demo. Tests break things in it.
	Before func(ctx context.Context, step string, n *kubelet.Node) error
}

// cleanUpTimeout bounds the cleaning up after a failure or an interruption.
const cleanUpTimeout = 3 * time.Minute

// Run runs the demo to its end and takes everything away again, also when it fails or ctx ends on the way. The
// report holds what was seen until then. The error says what went wrong and what Report.Check finds.
func Run(ctx context.Context, opts Options) (*Report, error) {
	s := &session{
		opts:     opts,
		progress: newProgress(opts.Out),
		report:   &Report{Steps: []Step{}, Leftovers: []string{}},
	}
	err := s.run(ctx)
	if s.node != nil {
		err = errors.Join(err, s.end(context.WithoutCancel(ctx), err != nil))
	}
	if err == nil {
		err = s.report.Check()
	}
	return s.report, err
}

// run takes the steps in order.
func (s *session) run(ctx context.Context) error {
	for _, step := range s.steps() {
		if s.opts.Before != nil && s.node != nil {
			if err := s.opts.Before(ctx, step.name, s.node); err != nil {
				return fmt.Errorf("before %q: %w", step.name, err)
			}
		}
		if err := s.take(ctx, step); err != nil {
			return err
		}
	}
	return nil
}

// take takes one step, shows it and notes its time.
func (s *session) take(ctx context.Context, step step) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.progress.begin(step.name)
	start := time.Now()
	err := step.do(ctx)
	took := time.Since(start)
	s.progress.end(step.name, took, err)
	s.report.Steps = append(s.report.Steps, Step{step.name, took.Seconds()})
	if err != nil {
		return fmt.Errorf("%s: %w", step.name, err)
	}
	return nil
}

// end cleans up if need be, ends the node and looks for what is left.
func (s *session) end(ctx context.Context, unfinished bool) error {
	ctx, cancel := context.WithTimeout(ctx, cleanUpTimeout)
	defer cancel()
	var errs []error
	if unfinished {
		errs = append(errs, s.take(ctx, step{"clean up", s.cleanUp}))
	}
	errs = append(errs, s.take(ctx, step{"look for leftovers", func(ctx context.Context) error {
		left, err := s.node.Close(ctx)
		s.report.Leftovers = append(s.report.Leftovers, left...)
		for _, line := range left {
			s.progress.say("%s", line)
		}
		return err
	}}))
	if unfinished && len(s.report.Leftovers) > 0 {
		errs = append(errs, fmt.Errorf("%d things are left over", len(s.report.Leftovers)))
	}
	return errors.Join(errs...)
}
