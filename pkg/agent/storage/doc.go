// Package storage does what a Storage message asks for: it makes something
// appear at a mount point in the guest, once however many containers ask for
// it, and takes it away with the last of them.
//
// pkg/agent/sandbox calls it for every storage of a sandbox or container, and
// pkg/agent/server for the size and health of volumes. Where devices are is
// pkg/agent/device's knowledge, what is on them internal/filesystem's; this
// package only decides what is done in which order.
package storage

import "errors"

var (
	// ErrRequest is returned for a Storage message that makes no sense.
	ErrRequest = errors.New("storage request is not usable")
	// ErrDriver is returned for a driver, or a driver option, that this agent
	// does not have.
	ErrDriver = errors.New("storage driver is not supported")
	// ErrNotMounted is returned for a guest path at which no volume is
	// mounted.
	ErrNotMounted = errors.New("no volume is mounted there")
	// ErrReadOnly is returned for a change to a volume that may only be read.
	ErrReadOnly = errors.New("volume is read-only")
	// ErrNoMemory is returned for huge pages that the guest has no room for.
	ErrNoMemory = errors.New("not enough memory in the guest")
)
