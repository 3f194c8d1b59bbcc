// Package device finds block devices and network cards in the guest by the
// addresses a shim gives for them, and waits for those that are still being
// plugged or resized.
//
// pkg/agent/storage, container and network call it. It reads sysfs and
// listens to the kernel's uevents; it never opens a device for writing, and
// knows nothing of file systems.
package device

import (
	"errors"
	"time"
)

// DefaultTimeout bounds how long a device may take to appear where the caller
// sets nothing else.
const DefaultTimeout = 10 * time.Second

var (
	// ErrAddress is returned for an address that cannot be one of a device.
	ErrAddress = errors.New("not a device address")
	// ErrTimeout is returned for a device that did not appear, or did not
	// grow, in the time allowed.
	ErrTimeout = errors.New("timed out waiting for the device")
	// ErrGone is returned for a disk that was found and has gone since.
	ErrGone = errors.New("device is gone")
)
