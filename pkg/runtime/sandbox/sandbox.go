package sandbox

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"syscall"

	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katadirect/katadirect/pkg/runtime/config"
)

// Roots are the places on the host that a sandbox uses; an empty field means Kata's own place. Tests set them.
type Roots struct {
	// Run holds one folder per sandbox with its state and management socket: /run/vc/sbs.
	Run string
	// VM holds one folder per machine: /run/vc/vm.
	VM string
	// Share holds one folder per sandbox with what its guest may see: /run/kata-containers/shared/sandboxes.
	Share string
	// Records holds the direct volumes' records: /run/kata-containers/shared/direct-volumes.
	Records string
}

// Options says what sandbox to make.
type Options struct {
	// ID is the sandbox's id as containerd or CRI-O gave it.
	ID string
	// Bundle is the absolute path of the sandbox container's bundle.
	Bundle string
	// Spec is the OCI spec of the sandbox container, for its annotations and host name. It is not changed.
	Spec   *specs.Spec
	Config config.Config
	Log    *slog.Logger
	Roots  Roots
}

// ContainerRequest says what container to make.
type ContainerRequest struct {
	ID string
	// Bundle is the absolute path of the container's bundle; the root file system is mounted at its rootfs folder.
	Bundle string
	// Spec is not changed.
	Spec     *specs.Spec
	Rootfs   []*types.Mount
	Terminal bool
}

// Sandbox is one pod's virtual machine and what runs in it.
type Sandbox struct{}

var errStub = errors.New("not built yet")

// Create boots the machine and makes the sandbox in it; on error everything is undone.
func Create(ctx context.Context, o Options) (*Sandbox, error) { return nil, errStub }

// CreateContainer makes a container whose first process waits for StartContainer.
func (s *Sandbox) CreateContainer(ctx context.Context, r ContainerRequest) error { return errStub }

// StartContainer lets the container's first process run.
func (s *Sandbox) StartContainer(ctx context.Context, id string) error { return errStub }

// Exec starts one more process in a running container.
func (s *Sandbox) Exec(ctx context.Context, containerID, execID string, p *specs.Process) error {
	return errStub
}

// Signal sends sig to a process, or with all to every process of the container. execID "" is the first process.
func (s *Sandbox) Signal(ctx context.Context, containerID, execID string, sig syscall.Signal, all bool) error {
	return errStub
}

// Wait blocks until the process has ended and returns its exit status.
func (s *Sandbox) Wait(ctx context.Context, containerID, execID string) (int, error) {
	return 0, errStub
}

// Stdin writes to the process's standard input; Close closes it in the guest.
func (s *Sandbox) Stdin(containerID, execID string) io.WriteCloser { return nil }

// Stdout reads the process's standard output to its end.
func (s *Sandbox) Stdout(containerID, execID string) io.Reader { return nil }

// Stderr reads the process's standard error to its end.
func (s *Sandbox) Stderr(containerID, execID string) io.Reader { return nil }

// ResizeTerminal sets the process's terminal to w columns and h rows.
func (s *Sandbox) ResizeTerminal(ctx context.Context, containerID, execID string, w, h uint32) error {
	return errStub
}

// Pause freezes all processes of the container.
func (s *Sandbox) Pause(ctx context.Context, id string) error { return errStub }

// Resume thaws them.
func (s *Sandbox) Resume(ctx context.Context, id string) error { return errStub }

// Update changes the container's resource limits.
func (s *Sandbox) Update(ctx context.Context, id string, r *specs.LinuxResources) error {
	return errStub
}

// RemoveContainer ends what is left of the container and gives back all it used. Idempotent.
func (s *Sandbox) RemoveContainer(ctx context.Context, id string) error { return errStub }

// PID is the hypervisor's process id.
func (s *Sandbox) PID() int { return 0 }

// Done is closed when the machine is gone: stopped, died, or killed because its agent no longer answered.
func (s *Sandbox) Done() <-chan struct{} { return nil }

// Err says why the machine is gone; nil while it runs and after Stop.
func (s *Sandbox) Err() error { return nil }

// Stop ends everything and gives back all the sandbox used. Idempotent and bounded.
func (s *Sandbox) Stop(ctx context.Context) error { return errStub }

// Cleanup gives back all that a sandbox used whose shim is gone. Idempotent; an unknown id is success.
func Cleanup(ctx context.Context, id string, roots Roots) error { return errStub }
