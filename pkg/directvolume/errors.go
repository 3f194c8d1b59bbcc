package directvolume

import (
	"errors"
	"fmt"
)

var (
	// ErrNotFound says that there is no record for the path: an ordinary mount.
	ErrNotFound = errors.New("no direct volume is recorded")
	// ErrInvalid says that there is a record and that it must not be used. The container has to fail:
	// sharing the folder instead would give it an empty directory on the host's disk.
	ErrInvalid = errors.New("invalid direct volume record")
	// ErrInvalidKey says that a volume path cannot be the name of a record.
	ErrInvalidKey = errors.New("invalid volume path")
	// ErrInvalidSandbox says that a sandbox id cannot be the name of a claim.
	ErrInvalidSandbox = errors.New("invalid sandbox id")
	// ErrDevice says that a good record names a device that is not there, or is neither a block device nor a
	// regular file.
	ErrDevice = errors.New("unusable device")
	// ErrClaimed says that a living sandbox has the volume. The error is a *ClaimedError.
	ErrClaimed = errors.New("volume is in use by a sandbox")
	// ErrAmbiguous says that several sandboxes may be meant.
	ErrAmbiguous = errors.New("more than one sandbox has such an id")
	// ErrNoSandbox says that no living sandbox has the volume, or that the sandbox has no management socket.
	ErrNoSandbox = errors.New("no living sandbox")
	// ErrNotOffered says that the sandbox's runtime, or the agent in its guest, cannot freeze volumes and tell of them.
	ErrNotOffered = errors.New("not offered by the sandbox's runtime")
	// ErrLeaseHeld says that another process holds the lease of the sandbox.
	ErrLeaseHeld = errors.New("the sandbox's lease is held by another process")
)

// ClaimedError is an ErrClaimed that says by whom.
type ClaimedError struct {
	VolumePath string
	Sandbox    string
}

func (e *ClaimedError) Error() string {
	return fmt.Sprintf("%s: %v: %s; end that pod first", e.VolumePath, ErrClaimed, e.Sandbox)
}

// Is makes errors.Is(err, ErrClaimed) true.
func (e *ClaimedError) Is(target error) bool { return target == ErrClaimed }

// StatusError is an answer of the management socket other than 200.
type StatusError struct {
	Code    int    // HTTP status code
	Message string // the body as the shim wrote it, at most 4 KiB
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("the sandbox's shim answered %d: %s", e.Code, e.Message)
}
