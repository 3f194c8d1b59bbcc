// Package filesystem looks after the file systems of volumes: what is on a
// device, making one on a blank device, checking, mounting, growing and
// measuring it.
//
// pkg/agent/storage calls it in the guest, with a device that is already found,
// and pkg/csi/hostmount on the host, for pods without a machine. It knows no
// Storage messages, no reference counts, no containers and no images, and is
// the only package of either that runs mkfs or fsck.
//
// The rule it exists for: a device is formatted only when every place where a
// file system, a volume manager or a partition table keeps its signature was
// read and held nothing but zeros. A read that failed is an error, never
// "blank".
package filesystem

import (
	"context"
	"errors"
)

var (
	// ErrOccupied is returned when a device to be formatted holds something,
	// or one to be mounted holds something else than it should.
	ErrOccupied = errors.New("device is not blank")
	// ErrBlank is returned when a device to be mounted holds nothing and may
	// not be formatted.
	ErrBlank = errors.New("device is blank and may not be formatted")
	// ErrUnsupported is returned for a file system type that cannot be made,
	// or grown, here.
	ErrUnsupported = errors.New("file system type is not supported")
	// ErrDamaged is returned when fsck could not repair a file system by
	// itself.
	ErrDamaged = errors.New("file system is damaged")
	// ErrOptions is returned for mount options that cannot be given to the
	// kernel.
	ErrOptions = errors.New("mount options are not usable")
	// ErrNoProgram is returned when a program that is needed is not
	// installed.
	ErrNoProgram = errors.New("a program is missing")
	// ErrRefused is returned when the mkfs program does not take the options
	// that the volume's owner has chosen.
	ErrRefused = errors.New("mkfs options are refused")
	// ErrBusy is returned when something uses a file system that is to be
	// released or checked, or a device that is to be formatted.
	ErrBusy = errors.New("it is in use")
)

// Tools runs programs to their end. Reaper.Output is one, HostTools another.
type Tools func(ctx context.Context, name string, args ...string) (output []byte, status int, err error)
