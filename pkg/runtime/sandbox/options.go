package sandbox

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katadirect/katadirect/internal/calltimes"
	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/config"
	"github.com/katadirect/katadirect/pkg/runtime/qemu"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

var (
	// ErrNotFound is returned for a container or process that the sandbox does not have.
	ErrNotFound = errors.New("not found in the sandbox")
	// ErrExists is returned for a second container or process with the same id.
	ErrExists = errors.New("already in the sandbox")
	// ErrStopping is returned for work that comes when the sandbox is on its way out.
	ErrStopping = errors.New("the sandbox is stopping")
)

// Roots are the places on the host that a sandbox uses; an empty field means Kata's own place. Tests set them.
type Roots struct {
	// Run holds one folder per sandbox with its lease, state and sockets: /run/vc/sbs.
	Run string
	// VM holds one folder per machine: /run/vc/vm.
	VM string
	// Share holds one folder per sandbox with what its guest may see: /run/kata-containers/shared/sandboxes.
	Share string
	// Records holds the direct volumes' records: /run/kata-containers/shared/direct-volumes.
	Records string
}

const defaultVMRoot = "/run/vc/vm"

func (r Roots) sandboxes() directvolume.Sandboxes { return directvolume.Sandboxes{GoDir: r.Run} }

func (r Roots) records() *directvolume.Store {
	return directvolume.NewStore(r.Records, directvolume.WithSandboxes(r.sandboxes()))
}

// dir is the sandbox's own folder, private to root.
func (r Roots) dir(id string) string { return r.sandboxes().Dir(id) }

// shareSocket is beside the management socket: in the share's own folder its path would be too long for a socket.
func (r Roots) shareSocket(id string) string { return filepath.Join(r.dir(id), "vhost-fs.sock") }

func (r Roots) stateFile(id string) string { return filepath.Join(r.dir(id), "persist.json") }

func (r Roots) vmDir(id string) string {
	if r.VM == "" {
		return filepath.Join(defaultVMRoot, id)
	}
	return filepath.Join(r.VM, id)
}

// Options says what sandbox to make.
type Options struct {
	// ID is the sandbox's id as containerd or CRI-O gave it.
	ID string
	// Bundle is the absolute path of the sandbox container's bundle.
	Bundle string
	// Spec is the OCI spec of the sandbox container, for its annotations, host name and resolv.conf. It is not
	// changed.
	Spec   *specs.Spec
	Config config.Config
	Log    *slog.Logger
	Roots  Roots
	// Calls, if not nil, is how long containerd's calls took, for the metrics.
	Calls *calltimes.Times

	// newMachine and times are exchanged by tests.
	newMachine func(qemu.Config) vm.Machine
	times      times
}

// times is how long a sandbox waits for its guest.
type times struct {
	// The agent is asked every checkPeriod whether it serves, and is dead if it does not say so within checkDeadline.
	checkPeriod, checkDeadline time.Duration
	// guestEnd bounds how long the guest may take to end its containers and unmount its file systems before the
	// machine is ended anyway.
	guestEnd time.Duration
	// settle is how long the hypervisor's end may take to be noticed after that of the connections to it: on a loaded
	// host it takes a while to give a guest's memory back, and why it ended says more than that its agent is gone.
	settle time.Duration
}

// defaultTimes has Kata's check period and deadline.
var defaultTimes = times{checkPeriod: 5 * time.Second, checkDeadline: 30 * time.Second, guestEnd: 20 * time.Second, settle: 2 * time.Second}

func (o Options) withDefaults() (Options, error) {
	if err := directvolume.CheckSandboxID(o.ID); err != nil {
		return o, err
	}
	if !filepath.IsAbs(o.Bundle) {
		return o, fmt.Errorf("bundle %q is not an absolute path", o.Bundle)
	}
	if o.Spec == nil {
		return o, errors.New("the sandbox has no spec")
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.newMachine == nil {
		o.newMachine = func(c qemu.Config) vm.Machine { return qemu.New(c) }
	}
	if o.times == (times{}) {
		o.times = defaultTimes
	}
	var err error
	o.Config, err = o.Config.WithAnnotations(o.Spec.Annotations, o.Log)
	return o, err
}

// ContainerRequest says what container to make.
type ContainerRequest struct {
	ID string
	// Bundle is the absolute path of the container's bundle; the root file system is mounted at its rootfs folder.
	Bundle string
	// Spec is not changed.
	Spec *specs.Spec
	// Rootfs is what to mount there, as containerd says it; empty if the files are where Spec.Root.Path says.
	Rootfs []*types.Mount
	// Terminal says whether the first process has a terminal; it overrides Spec.Process.Terminal.
	Terminal bool
}
