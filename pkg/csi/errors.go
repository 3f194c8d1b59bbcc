package csi

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katadirect/katadirect/internal/filesystem"
	"github.com/katadirect/katadirect/internal/mkfs"
	"github.com/katadirect/katadirect/pkg/csi/hostmount"
	"github.com/katadirect/katadirect/pkg/csi/kube"
	"github.com/katadirect/katadirect/pkg/csi/loop"
	"github.com/katadirect/katadirect/pkg/csi/mode"
	"github.com/katadirect/katadirect/pkg/csi/pool"
	"github.com/katadirect/katadirect/pkg/csi/stage"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

var (
	// ErrInvalidArgument says that a request lacks something, or asks for what this driver does not do.
	ErrInvalidArgument = errors.New("invalid argument")
	// ErrBusy says that a call for the same volume or target path is under way.
	ErrBusy = errors.New("another call for this volume is under way")
	// ErrToken says that a page token is not one that the list has given.
	ErrToken = errors.New("invalid starting token")
	// ErrNotPublished says that the volume is neither published nor staged at the path given.
	ErrNotPublished = errors.New("the volume is not at this path")
	// ErrInUse says that the volume is staged, published or claimed, which forbids what was asked.
	ErrInUse = errors.New("the volume is in use")
	// ErrState says that something else has to happen first, or cannot happen to this volume at all.
	ErrState = errors.New("not possible in this state")
	// ErrDiffers says that the volume is staged or published already, but not as asked.
	ErrDiffers = errors.New("staged or published differently")
	// ErrNoTopology says that a volume was asked for in places that this node is not.
	ErrNoTopology = errors.New("this node is not in the topology asked for")
	// ErrNoNode says that the volume is not on the node named, or that there is no such node here.
	ErrNoNode = errors.New("not a node of this volume")
	// ErrCannotResize says that the runtime or guest that has the volume cannot grow it while it is in use.
	ErrCannotResize = errors.New("the runtime cannot resize")
	// ErrCannotLimit says that the runtime that has the volume cannot limit its I/O.
	ErrCannotLimit = errors.New("the runtime cannot limit I/O")
	// ErrGuest says that the sandbox that has the volume did not do what it was asked; trying again may help.
	ErrGuest = errors.New("the sandbox did not answer as it should")
	// ErrDiskSilent says that the pool's disk does not answer.
	ErrDiskSilent = errors.New("the disk does not answer")
)

// failure is an error with a kind, for the code, and a text, for people. The text does not repeat the kind.
type failure struct {
	kind  error
	cause error
}

func (f *failure) Error() string { return f.cause.Error() }

func (f *failure) Unwrap() []error { return []error{f.kind, f.cause} }

// failf makes an error of a kind. Its text is the format's, in which %w may wrap a cause.
func failf(kind error, format string, args ...any) error {
	return &failure{kind: kind, cause: fmt.Errorf(format, args...)}
}

// codeOf are the gRPC codes of domain errors, the first that matches. An error of two kinds has the code of the
// more particular one, which stands higher.
var codeOf = []struct {
	kind error
	code codes.Code
}{
	{ErrBusy, codes.Aborted},
	{errDeleted, codes.Aborted},
	{ErrToken, codes.Aborted},
	{filesystem.ErrBusy, codes.Aborted},
	{ErrInvalidArgument, codes.InvalidArgument},
	{pool.ErrInvalidID, codes.InvalidArgument},
	{pool.ErrInvalidSpec, codes.InvalidArgument},
	{directvolume.ErrInvalidKey, codes.InvalidArgument},
	{mkfs.ErrOption, codes.InvalidArgument},
	{filesystem.ErrRefused, codes.InvalidArgument},
	{ErrCannotResize, codes.FailedPrecondition},
	{ErrCannotFreeze, codes.FailedPrecondition},
	{pool.ErrGroupMember, codes.FailedPrecondition},
	{ErrCannotLimit, codes.FailedPrecondition},
	{ErrInUse, codes.FailedPrecondition},
	{ErrState, codes.FailedPrecondition},
	{loop.ErrInUse, codes.FailedPrecondition},
	{loop.ErrForeign, codes.FailedPrecondition},
	{pool.ErrImageInUse, codes.FailedPrecondition},
	{hostmount.ErrMounted, codes.FailedPrecondition},
	{hostmount.ErrCannotGrow, codes.FailedPrecondition},
	{hostmount.ErrRefused, codes.FailedPrecondition},
	{filesystem.ErrNoProgram, codes.FailedPrecondition},
	{filesystem.ErrBlank, codes.FailedPrecondition},
	{filesystem.ErrOccupied, codes.FailedPrecondition},
	{filesystem.ErrDamaged, codes.FailedPrecondition},
	{directvolume.ErrClaimed, codes.FailedPrecondition},
	{directvolume.ErrInvalid, codes.FailedPrecondition},
	{stage.ErrNotStaged, codes.FailedPrecondition},
	{ErrDiffers, codes.AlreadyExists},
	{pool.ErrAttachedDifferently, codes.AlreadyExists},
	{pool.ErrIncompatible, codes.AlreadyExists},
	{mode.ErrNoMachine, codes.FailedPrecondition},
	{mode.ErrUnknown, codes.FailedPrecondition},
	{kube.ErrNotFound, codes.FailedPrecondition},
	{ErrNotPublished, codes.NotFound},
	{ErrNoNode, codes.NotFound},
	{pool.ErrNotFound, codes.NotFound},
	{pool.ErrSnapshotNotFound, codes.NotFound},
	{pool.ErrGroupNotFound, codes.NotFound},
	{pool.ErrOutOfRange, codes.OutOfRange},
	{ErrNoTopology, codes.ResourceExhausted},
	{pool.ErrTooManyAttached, codes.ResourceExhausted},
	{pool.ErrNoSpace, codes.ResourceExhausted},
	{unix.ENOSPC, codes.ResourceExhausted},
	{unix.EDQUOT, codes.ResourceExhausted},
	{pool.ErrDamaged, codes.DataLoss},
	{ErrGuest, codes.Unavailable},
	{ErrDiskSilent, codes.Unavailable},
	{pool.ErrNotReady, codes.Unavailable},
	{errDriverEnds, codes.Unavailable},
	{kube.ErrUnavailable, codes.Unavailable},
	{context.Canceled, codes.Canceled},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
}

// toStatus is the only place where errors become gRPC codes. What has a code already keeps it; what nobody foresaw
// is INTERNAL.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, isStatus := status.FromError(err); isStatus {
		return err
	}
	for _, known := range codeOf {
		if errors.Is(err, known.kind) {
			return status.Error(known.code, err.Error())
		}
	}
	return status.Error(codes.Internal, err.Error())
}
