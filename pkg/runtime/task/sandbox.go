package task

import (
	"context"
	"io"
	"syscall"

	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

// Sandbox is what the service needs of a pod's machine; pkg/runtime/sandbox is the real one. Container ids are
// containerd's; an exec id of "" means the container's first process. Methods may be called concurrently.
type Sandbox interface {
	// CreateContainer makes a container whose first process waits for StartContainer. On error nothing is left.
	CreateContainer(ctx context.Context, r ContainerRequest) error
	StartContainer(ctx context.Context, id string) error
	// Exec starts one more process in a running container.
	Exec(ctx context.Context, id, execID string, p *specs.Process) error
	// Signal sends sig to one process, or with all to every process of the container.
	Signal(ctx context.Context, id, execID string, sig syscall.Signal, all bool) error
	// Wait blocks until the process has ended and returns its exit status: its code, or 128 and the signal that
	// ended it. The agent forgets the process then, so its output must have been read to the end before.
	Wait(ctx context.Context, id, execID string) (int, error)

	// Stdin's Close closes the stream in the guest. Stdout and Stderr end with io.EOF when the process has ended,
	// and with another error when the machine or ctx has. With a terminal everything arrives on Stdout.
	Stdin(ctx context.Context, id, execID string) io.WriteCloser
	Stdout(ctx context.Context, id, execID string) io.Reader
	Stderr(ctx context.Context, id, execID string) io.Reader
	ResizeTerminal(ctx context.Context, id, execID string, width, height uint32) error

	Pause(ctx context.Context, id string) error
	Resume(ctx context.Context, id string) error
	Update(ctx context.Context, id string, r *specs.LinuxResources) error
	// Stats measures the container's cgroup in the guest.
	Stats(ctx context.Context, id string) (*agentproto.StatsContainerResponse, error)
	// LastWords returns what the container, whose first process has ended, has left for kubelet in a file that the host does
	// not share; "" where it does.
	LastWords(ctx context.Context, id string) (string, error)
	// NextOOM blocks until the guest's kernel has killed a process of a container for want of memory, and returns the
	// container's id.
	NextOOM(ctx context.Context) (string, error)
	// RemoveContainer ends what is left of the container and gives back all it used. Idempotent.
	RemoveContainer(ctx context.Context, id string) error

	// PID is the hypervisor's process id, which stands in for every process of the pod.
	PID() int
	// Done is closed when the machine is gone: stopped, died, or killed because its agent no longer answered.
	Done() <-chan struct{}
	// Err says why the machine is gone; nil while it runs and after Stop.
	Err() error
	// Stop ends everything and gives back all the sandbox used. Idempotent and bounded.
	Stop(ctx context.Context) error
}

// ContainerRequest says what container to make.
type ContainerRequest struct {
	ID string
	// Bundle is the absolute path of the container's bundle; the root file system is mounted at its rootfs folder.
	Bundle string
	// Spec is the bundle's config.json. The sandbox does not change it.
	Spec *specs.Spec
	// Rootfs is what to mount, as containerd's snapshotter gave it; empty if it is mounted already.
	Rootfs   []*types.Mount
	Terminal bool
}

// BootRequest says what machine to boot.
type BootRequest struct {
	// ID is the pod's: the id of its sandbox container, or of a container that is alone.
	ID     string
	Bundle string
	// Spec is the sandbox container's, for its annotations.
	Spec *specs.Spec
	// ConfigPath is the configuration file named in the runtime's options, or empty.
	ConfigPath string
}

// Boot makes a pod's machine. On error nothing is left of it.
type Boot func(ctx context.Context, r BootRequest) (Sandbox, error)
