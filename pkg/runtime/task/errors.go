package task

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var (
	// ErrNotFound is returned for a container or exec that the shim does not have.
	ErrNotFound = errors.New("not found")
	// ErrExists is returned for a second container or exec of the same id, and for a second sandbox.
	ErrExists = errors.New("already exists")
	// ErrInvalid is returned for a request, a spec or an option that makes no sense.
	ErrInvalid = errors.New("invalid")
	// ErrState is returned for a move that the process's state does not allow.
	ErrState = errors.New("not possible now")
	// ErrClosing is returned once the shim is on its way out.
	ErrClosing = errors.New("the shim is shutting down")
	// ErrNotImplemented is returned for what no machine can do.
	ErrNotImplemented = errors.New("not implemented")
)

// noContainer and noExec are worded for people: the text ends up in pod events.
func noContainer(id string) error { return fmt.Errorf("container %s: %w", id, ErrNotFound) }

func noExec(id, execID string) error {
	return fmt.Errorf("process %s in container %s: %w", execID, id, ErrNotFound)
}

// toStatus is the one place where errors become the codes that containerd goes by. The text stays whole, because
// containerd puts it into the pod's events.
//
// Only this package's own errors have a meaning for containerd. A "not found" of the agent's or of the host's file
// system must not become containerd's: it would take a failed delete for one already done.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	return status.Error(code(err), err.Error())
}

func code(err error) codes.Code {
	switch {
	case errors.Is(err, ErrNotFound):
		return codes.NotFound
	case errors.Is(err, ErrExists):
		return codes.AlreadyExists
	case errors.Is(err, ErrInvalid):
		return codes.InvalidArgument
	case errors.Is(err, ErrState):
		return codes.FailedPrecondition
	case errors.Is(err, ErrClosing):
		return codes.Unavailable
	case errors.Is(err, ErrNotImplemented):
		return codes.Unimplemented
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	default:
		return codes.Unknown
	}
}

func noSecond(what, where string) error { return fmt.Errorf("%s in %s: %w", what, where, ErrExists) }
