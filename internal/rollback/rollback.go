// Package rollback undoes the finished steps of work that failed half way.
//
// A function that takes several steps pushes the undo of each as soon as it is done:
//
//	func (s *Service) attach(ctx context.Context) (err error) {
//		var undo rollback.Stack
//		defer undo.OnError(ctx, &err)
//
//		if err := s.claim(ctx); err != nil {
//			return err
//		}
//		undo.Push("release the claim", s.release)
//		return s.plug(ctx)
//	}
//
// Undo steps run last first, each of them even when another fails, and on a context that the caller's cancellation
// does not reach: a call that was cancelled must still be taken back. Each step must be idempotent.
package rollback

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Timeout bounds all undo steps of one stack together.
const Timeout = 30 * time.Second

// Stack is a list of undo steps. The zero value is ready; it is not safe for concurrent use.
type Stack struct {
	steps []step
}

type step struct {
	what string
	undo func(context.Context) error
}

// Push adds an undo step. what completes the sentence "could not …".
func (s *Stack) Push(what string, undo func(context.Context) error) {
	s.steps = append(s.steps, step{what, undo})
}

// Keep forgets all steps: the work is done and stays.
func (s *Stack) Keep() { s.steps = nil }

// OnError runs the steps when *err is not nil, and joins their failures to it. Meant to be deferred with the
// address of a named result. A panic on the way out runs the steps too, and goes on.
func (s *Stack) OnError(ctx context.Context, err *error) {
	if p := recover(); p != nil {
		_ = s.Run(ctx)
		panic(p)
	}
	if *err == nil {
		return
	}
	if undoErr := s.Run(ctx); undoErr != nil {
		*err = errors.Join(*err, undoErr)
	}
}

// Run undoes everything now, last step first, and empties the stack. It returns the failures joined.
func (s *Stack) Run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), Timeout)
	defer cancel()

	var failures []error
	for len(s.steps) > 0 {
		last := s.steps[len(s.steps)-1]
		s.steps = s.steps[:len(s.steps)-1]
		if err := last.undo(ctx); err != nil {
			failures = append(failures, fmt.Errorf("undo: could not %s: %w", last.what, err))
		}
	}
	return errors.Join(failures...)
}
