// Package container runs the pod's containers: it hands each to crun, an OCI
// runtime, and keeps what crun does not: the processes with their streams and
// exits, and the cgroup's figures and events.
//
// pkg/agent/sandbox calls it with a specification whose mounts and devices are
// ready. Namespaces, capabilities, seccomp, mounts inside the container and
// cgroup limits are crun's work and must not be done here; storages, names of
// shared folders and the protocol's messages belong to the callers.
//
// A container goes one way: created (its first process exists and waits),
// started, and, when that process has exited, stopped. Remove ends it from
// anywhere.
package container

import (
	"errors"
	"regexp"
)

var (
	// ErrID is returned for a container or process id that cannot be one.
	ErrID = errors.New("not a valid id")
	// ErrSpec is returned for a specification that cannot be run.
	ErrSpec = errors.New("container specification is not usable")
	// ErrState is returned for a move that the container's state does not
	// allow, such as an exec in a stopped one.
	ErrState = errors.New("container is not in the right state")
	// ErrExists is returned for a second process with an id in use.
	ErrExists = errors.New("id is in use")
	// ErrNoProcess is returned for a process that the container does not have.
	ErrNoProcess = errors.New("no such process")
)

// idPattern is Kata's rule for ids.
var idPattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{1,127}$`)

// CheckID returns ErrID for what may not name a container or a process: ids
// become file names.
func CheckID(id string) error {
	if !idPattern.MatchString(id) {
		return ErrID
	}
	return nil
}
