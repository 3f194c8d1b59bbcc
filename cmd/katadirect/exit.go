package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/katadirect/katadirect/internal/nodeinstall"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// Exit statuses. Scripts rely on them: they are in the help of the root command, and never change their meaning.
const (
	exitOK       = 0
	exitFailed   = 1
	exitUsage    = 2
	exitNotFound = 3
	exitInUse    = 4
	exitInvalid  = 5
	exitCannot   = 6
	exitThawed   = 7
	exitRefused  = 8
	exitBack     = 9
	exitSignal   = 128 // and the signal's number
)

const exitHelp = `Exit status:
  0    done
  1    failed; for check: the host cannot run direct volumes
  2    flags or arguments that cannot be meant
  3    no record for the path, or no living sandbox has the volume; for node status: nothing is installed
  4    refused, because a living sandbox has the volume, or needs what would be removed
  5    the record or its device cannot be used
  6    the sandbox's runtime, or the agent in its guest, does not offer it
  7    the volume was not frozen until the thaw
  8    node: refused before anything was changed, because a file is not understood or the node lacks something
  9    node: the container runtime did not come up with the change, which was taken back
  125  exec itself has failed; else its status is the program's
  130  interrupted (143: terminated); what was begun has been taken back`

// errSilent is returned when everything has been said, and only the status is left to give.
var errSilent = errors.New("failed")

// errAbsent is errSilent for what is not there, or is and should not be.
var errAbsent = fmt.Errorf("absent: %w", errSilent)

// usageError is an error in what the user has typed.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func exitStatus(ctx context.Context, err error) int {
	var signal interrupted
	var program programStatus
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &program):
		return int(program)
	case errors.As(context.Cause(ctx), &signal):
		return exitSignal + int(signal.signal)
	case errors.As(err, new(execError)):
		return exitExec
	case errors.As(err, new(usageError)), errors.Is(err, directvolume.ErrInvalidKey),
		errors.Is(err, directvolume.ErrInvalidSandbox), errors.Is(err, directvolume.ErrAmbiguous):
		return exitUsage
	case errors.Is(err, directvolume.ErrNotFound), errors.Is(err, directvolume.ErrNoSandbox), errors.Is(err, errAbsent):
		return exitNotFound
	case errors.Is(err, directvolume.ErrClaimed), errors.Is(err, nodeinstall.ErrInUse):
		return exitInUse
	case errors.Is(err, directvolume.ErrInvalid), errors.Is(err, directvolume.ErrDevice):
		return exitInvalid
	case errors.Is(err, directvolume.ErrNotOffered):
		return exitCannot
	case errors.Is(err, errNotFrozen):
		return exitThawed
	case errors.Is(err, nodeinstall.ErrTakenBack):
		return exitBack
	case errors.Is(err, nodeinstall.ErrRefused):
		return exitRefused
	}
	return exitFailed
}
