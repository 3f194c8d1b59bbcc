package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/katadirect/katadirect/internal/rollback"
	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/agentclient"
	"github.com/katadirect/katadirect/pkg/runtime/management"
	"github.com/katadirect/katadirect/pkg/runtime/qemu"
	"github.com/katadirect/katadirect/pkg/runtime/share"
	"github.com/katadirect/katadirect/pkg/runtime/volume"
)

// monitorAddress is the file in the bundle that says where the management socket is.
const monitorAddress = "monitor_address"

// Create boots the machine and makes the sandbox in it. On error everything is undone.
//
// The order is that of what the next step leans on: lease, state, file share, network, machine, agent, network and sandbox
// in the guest, management socket. A volume is claimed only with a container, so that whoever reads a claim finds the socket.
func Create(ctx context.Context, o Options) (_ *Sandbox, err error) {
	if o, err = o.withDefaults(); err != nil {
		return nil, fmt.Errorf("sandbox %s: %w", o.ID, err)
	}
	s := &Sandbox{
		id: o.ID, bundle: o.Bundle, roots: o.Roots, config: o.Config, times: o.times, log: o.Log, calls: o.Calls,
		done: make(chan struct{}), containers: make(map[string]*container),
		sharedEmptyDir: make(map[string]struct{}), console: &console{log: o.Log},
	}
	var undo rollback.Stack
	defer undo.OnError(ctx, &err)
	for _, step := range []struct {
		what string
		do   func(context.Context, Options, *rollback.Stack) error
	}{
		{"size the virtual machine", s.planSize},
		{"take the lease", s.takeLease},
		{"share files", s.startShare},
		{"join the pod's network", s.joinNetwork},
		{"start the virtual machine", s.startMachine},
		{"reach the agent in the guest", s.reachAgent},
		{"set up the network in the guest", s.setUpNetwork},
		{"make the sandbox in the guest", s.makeSandbox},
		{"forward the pod's localhost", s.forwardPorts},
		{"listen for the management of volumes", s.listen},
	} {
		if err := step.do(ctx, o, &undo); err != nil {
			return nil, fmt.Errorf("sandbox %s: %s: %w", s.id, step.what, err)
		}
	}
	s.life, s.endLife = context.WithCancel(context.Background())
	go s.watch()
	s.log.Info("sandbox is ready", "hypervisor", s.PID(), "agent", s.AgentURL(), "agentVersion", s.features.Version,
		"networkCards", len(s.network.NICs()))
	return s, nil
}

// takeLease makes the sandbox's folder, whose lock says that the sandbox lives.
func (s *Sandbox) takeLease(_ context.Context, _ Options, undo *rollback.Stack) (err error) {
	if s.lease, err = s.roots.sandboxes().AcquireLease(s.id); err != nil {
		return err
	}
	undo.Push("remove the sandbox's folder", func(context.Context) error { return s.removeDir() })
	s.state = newStateFile(s.roots.stateFile(s.id), s.bundle)
	return nil
}

// removeDir gives the lease up last: until then nobody else takes the sandbox for dead.
func (s *Sandbox) removeDir() error {
	err := os.RemoveAll(s.roots.dir(s.id))
	if closeErr := s.lease.Close(); !errors.Is(closeErr, os.ErrClosed) {
		err = errors.Join(err, closeErr)
	}
	return err
}

func (s *Sandbox) startMachine(ctx context.Context, o Options, undo *rollback.Stack) error {
	c, err := s.machineConfig()
	if err != nil {
		return err
	}
	s.machine = o.newMachine(c)
	undo.Push("stop the virtual machine", s.machine.Stop)
	s.started = time.Now()
	defer s.network.HandedOver()
	return s.machine.Start(ctx)
}

func (s *Sandbox) machineConfig() (qemu.Config, error) {
	h := s.config.Hypervisor
	for key, path := range map[string]string{"kernel": h.Kernel, "initrd": h.Initrd} {
		if _, err := os.Stat(path); err != nil {
			return qemu.Config{}, fmt.Errorf("no guest image: %s = %q: %w; `katadirect guest build` makes one", key, path, err)
		}
	}
	params := strings.Fields(h.KernelParams)
	if s.config.Agent.Debug {
		params = append(params, "agent.log=debug")
	}
	params = append(params, debugConsole(s.config.Agent.DebugConsole)...)
	if bytes := s.config.Agent.ContainerPipeBytes; bytes > 0 {
		params = append(params, fmt.Sprintf("agent.container_pipe_size=%d", bytes))
	}
	c := qemu.Config{
		ID: s.id, Dir: s.roots.vmDir(s.id), QEMU: h.Path, Kernel: h.Kernel, Initrd: h.Initrd, KernelParams: params,
		Accel: s.config.Direct.Accel, MemoryMiB: s.size.now.MemoryMiB, VCPUs: s.size.now.VCPUs, Bridges: h.Bridges,
		BlockDriver: h.BlockDriver, BlockAIO: h.BlockAIO, IOThread: h.IOThreads,
		NICs:      s.network.NICs(),
		Namespace: s.network.Namespace(),
		Vsock:     true, Lease: s.lease, Console: s.console, Debug: h.Debug, OnEvent: s.onEvent, Log: s.log,
	}
	if !s.copies() {
		c.ShareSocket, c.ShareTag = s.roots.shareSocket(s.id), share.Tag
	}
	if h.BlockCache {
		c.BlockCache = &qemu.BlockCache{Direct: h.BlockCacheDirect, NoFlush: h.BlockCacheNoFlush}
	}
	if !s.config.Runtime.StaticResources {
		most := s.size.limits.Most
		c.MaxVCPUs, c.MaxMemoryMiB, c.MemorySlots = most.VCPUs, most.MemoryMiB, h.MemorySlots
	}
	return c, nil
}

// onEvent is called by the machine. One that stands still for want of space on the host is not dead.
func (s *Sandbox) onEvent(e qemu.Event) {
	switch e.Kind {
	case qemu.EventStoppedNoSpace:
		s.noSpace.Store(true)
	case qemu.EventResumed:
		now := time.Now()
		s.resumed.Store(&now)
		s.noSpace.Store(false)
	}
	s.log.Warn("machine: "+e.Message, "event", string(e.Kind), "disk", e.DiskID)
}

// stoodStill says whether the guest stands still for want of space on the host, or has at any time since then.
func (s *Sandbox) stoodStill(since time.Time) bool {
	if s.noSpace.Load() { // looked at first: onEvent changes it last
		return true
	}
	resumed := s.resumed.Load()
	return resumed != nil && resumed.After(since)
}

// standing says the same, but no of a guest that is to end: that one is not waited for.
func (s *Sandbox) standing(since time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stoodStill(since) && !s.closed
}

func (s *Sandbox) reachAgent(ctx context.Context, o Options, undo *rollback.Stack) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.config.Agent.DialTimeout,
		fmt.Errorf("%w within dial_timeout = %s", agentclient.ErrNoAnswer, s.config.Agent.DialTimeout))
	defer cancel()
	conn, err := s.machine.DialAgent(ctx)
	if err != nil {
		return s.withCause(ctx, err)
	}
	s.agent = agentclient.New(conn, agentclient.Options{
		CreateContainerTimeout: s.config.Runtime.CreateContainerTimeout, Standing: s.standing, Log: s.log})
	undo.Push("hang up", func(context.Context) error { return s.agent.Close() })
	if s.features, err = s.agent.Hello(ctx); err != nil {
		return s.withCause(ctx, err)
	}
	s.booted = time.Since(s.started)
	s.volumes = volume.New(volume.Config{
		Sandbox: s.id, Records: s.roots.records(), Disks: s.machine, Agent: s.agent, Features: s.features,
		Disabled: s.config.Hypervisor.DisableBlock, Log: s.log,
	})
	return nil
}

// withCause adds what is behind the end of ctx, or of the machine, to an error, and logs the guest's last words.
func (s *Sandbox) withCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		err = errors.Join(err, cause)
	}
	if died := s.machine.Err(); died != nil && !errors.Is(err, died) {
		err = errors.Join(err, died)
	}
	s.log.Error("the guest does not answer", "error", err, "console", s.console.last())
	return err
}

func (s *Sandbox) makeSandbox(ctx context.Context, o Options, _ *rollback.Stack) error {
	var storages []*agentproto.Storage
	if !s.copies() {
		storages = append(storages, &agentproto.Storage{
			Driver: "virtio-fs", Source: share.Tag, Fstype: "virtiofs", MountPoint: share.GuestDir,
		})
	}
	storages = append(storages, sharedMemory(o.Spec.Mounts))
	_, err := s.agent.CreateSandbox(ctx, &agentproto.CreateSandboxRequest{
		Hostname: hostname(o.Spec), Dns: resolvConf(o.Spec.Mounts), Storages: storages, SandboxId: s.id,
		KernelModules: kernelModules(s.config.Agent.KernelModules),
	})
	return err
}

// kernelModules reads the configuration's form: a module's name, and after it its parameters.
func kernelModules(lines []string) []*agentproto.KernelModule {
	var modules []*agentproto.KernelModule
	for _, line := range lines {
		if words := strings.Fields(line); len(words) > 0 {
			modules = append(modules, &agentproto.KernelModule{Name: words[0], Parameters: words[1:]})
		}
	}
	return modules
}

func (s *Sandbox) listen(_ context.Context, _ Options, undo *rollback.Stack) (err error) {
	path := s.roots.sandboxes().SocketPath(s.id)
	if s.management, err = management.Serve(path, s, management.Options{Pprof: s.config.Runtime.Pprof, Log: s.log}); err != nil {
		return err
	}
	undo.Push("close the management socket", s.management.Close)
	file := filepath.Join(s.bundle, monitorAddress)
	undo.Push("remove "+monitorAddress, func(context.Context) error { return removeFile(file) })
	return os.WriteFile(file, []byte("unix://"+path), 0o600)
}

func removeFile(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

var _ management.Backend = (*Sandbox)(nil)
