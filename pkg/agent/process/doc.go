// Package process is one process of a container, the first or one that was
// executed later: its standard streams, its exit, its signals.
//
// pkg/agent/container makes the streams, has crun start something on them, and
// binds the two together with New. What a process belongs to, and who may ask
// for it under which id, is not known here.
package process

import (
	"errors"
	"time"
)

// DefaultPipeSize is the buffer of an output pipe, in bytes: large enough that
// a container seldom waits for the way to the host.
const DefaultPipeSize = 1 << 20

// afterExit is how long a finished process's output streams may stay open:
// others that it left in the background may hold them for ever.
const afterExit = 500 * time.Millisecond

var (
	// ErrStdinClosed is returned for a write to a standard input that was
	// closed, or whose process is gone.
	ErrStdinClosed = errors.New("standard input is closed")
	// ErrNoTerminal is returned for a resize of a process without a terminal.
	ErrNoTerminal = errors.New("process has no terminal")
)
