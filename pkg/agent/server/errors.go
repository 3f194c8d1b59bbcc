package server

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katadirect/katadirect/internal/filesystem"
	"github.com/katadirect/katadirect/internal/mkfs"
	"github.com/katadirect/katadirect/pkg/agent/console"
	"github.com/katadirect/katadirect/pkg/agent/container"
	"github.com/katadirect/katadirect/pkg/agent/device"
	"github.com/katadirect/katadirect/pkg/agent/guest"
	"github.com/katadirect/katadirect/pkg/agent/module"
	"github.com/katadirect/katadirect/pkg/agent/network"
	"github.com/katadirect/katadirect/pkg/agent/ports"
	"github.com/katadirect/katadirect/pkg/agent/process"
	"github.com/katadirect/katadirect/pkg/agent/sandbox"
	"github.com/katadirect/katadirect/pkg/agent/storage"
)

// statusCodes says what each of the agent's errors is to a shim. The first
// that matches counts. Kata's shims know NOT_FOUND for a process and
// INVALID_ARGUMENT for a container; the others are told apart by people.
var statusCodes = []struct {
	err  error
	code codes.Code
}{
	{container.ErrNoProcess, codes.NotFound},
	{sandbox.ErrNoContainer, codes.InvalidArgument},
	{container.ErrExists, codes.AlreadyExists},
	{container.ErrID, codes.InvalidArgument},
	{container.ErrSpec, codes.InvalidArgument},
	{container.ErrState, codes.FailedPrecondition},
	{sandbox.ErrState, codes.FailedPrecondition},
	{console.ErrNone, codes.NotFound},
	{console.ErrMany, codes.ResourceExhausted},
	{console.ErrStart, codes.InvalidArgument},
	{ports.ErrPort, codes.InvalidArgument},
	{ports.ErrRefused, codes.Unavailable},
	{ports.ErrNone, codes.NotFound},
	{ports.ErrMany, codes.ResourceExhausted},
	{process.ErrNoTerminal, codes.FailedPrecondition},
	{process.ErrStdinClosed, codes.FailedPrecondition},
	{storage.ErrNotMounted, codes.NotFound},
	{storage.ErrRequest, codes.InvalidArgument},
	{storage.ErrDriver, codes.InvalidArgument},
	{storage.ErrReadOnly, codes.FailedPrecondition},
	{storage.ErrSubPath, codes.FailedPrecondition},
	{storage.ErrNoMemory, codes.ResourceExhausted},
	{filesystem.ErrOptions, codes.InvalidArgument},
	{filesystem.ErrUnsupported, codes.InvalidArgument},
	{mkfs.ErrOption, codes.InvalidArgument},
	{filesystem.ErrOccupied, codes.FailedPrecondition},
	{filesystem.ErrBlank, codes.FailedPrecondition},
	{filesystem.ErrDamaged, codes.DataLoss},
	{filesystem.ErrBusy, codes.Aborted},
	{filesystem.ErrFrozen, codes.Aborted},
	{device.ErrAddress, codes.InvalidArgument},
	{device.ErrTimeout, codes.DeadlineExceeded},
	{device.ErrGone, codes.NotFound},
	{guest.ErrRequest, codes.InvalidArgument},
	{network.ErrRequest, codes.InvalidArgument},
	{network.ErrNoLink, codes.NotFound},
	{module.ErrUnknown, codes.NotFound},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
	{context.Canceled, codes.Canceled},
}

// toStatus maps an error to the protocol's. Everything else is INTERNAL, as
// with Kata's agent.
func toStatus(err error) error {
	if _, already := status.FromError(err); already {
		return err
	}
	for _, known := range statusCodes {
		if errors.Is(err, known.err) {
			return status.Error(known.code, err.Error())
		}
	}
	return status.Error(codes.Internal, err.Error())
}
