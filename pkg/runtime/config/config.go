// Package config reads Kata's configuration.toml: the file people already have, from the places where it already
// is, with the keys under their own names.
//
// The sandbox takes a Config when it is made and never looks back at the file. Nothing here starts, opens or checks
// anything but the file itself: whether a path in it exists is for its user to say, with the reason it is needed.
package config

import "time"

// Config is what the shim honours of configuration.toml. Default gives the values of a host without one.
type Config struct {
	// Path is the file it came from, symbolic links resolved; empty when there was none.
	Path string
	// Notices are sentences about what was left aside when it was read.
	Notices    []string
	Hypervisor Hypervisor
	Runtime    Runtime
	Agent      Agent
	Direct     Direct
}

// Hypervisor is the table [hypervisor.qemu].
type Hypervisor struct {
	// Path is the hypervisor's program (path).
	Path string
	// ValidPaths and ValidDaemons are the patterns of programs that a pod's annotations path and virtio_fs_daemon may
	// name (valid_hypervisor_paths, valid_virtio_fs_daemon_paths).
	ValidPaths, ValidDaemons []string
	// Kernel and Initrd are the guest's files (kernel, initrd).
	Kernel, Initrd string
	// KernelParams are appended to the guest's command line (kernel_params).
	KernelParams string
	// MemoryMiB is the machine's memory (default_memory).
	MemoryMiB int
	// VCPUs is the number of processors (default_vcpus), at least 1.
	VCPUs int
	// MaxVCPUs is how many processors the machine may get while it runs (default_maxvcpus); 0 is as many as the host
	// has, and so is more than that. MaxMemoryMiB is the same for memory (default_maxmemory).
	MaxVCPUs, MaxMemoryMiB int
	// MemorySlots is how often memory may be plugged in (memory_slots).
	MemorySlots int
	// Bridges is the number of PCI bridges that disks are plugged into (default_bridges).
	Bridges int
	// EnableAnnotations are the regular expressions of the annotations a pod may set (enable_annotations).
	EnableAnnotations []string

	// BlockDriver is BlockVirtioBlk or BlockVirtioSCSI (block_device_driver).
	BlockDriver string
	// BlockAIO is threads, native or io_uring (block_device_aio).
	BlockAIO string
	// DisableBlock forbids block devices in the guest (disable_block_device_use). A direct volume then is an error.
	DisableBlock bool

	// BlockCache says whether BlockCacheDirect (past the host's page cache) and BlockCacheNoFlush (the guest's
	// flushes are dropped) are told to the hypervisor at all (block_device_cache_set, _direct and _noflush).
	BlockCache, BlockCacheDirect, BlockCacheNoFlush bool
	// IOThreads gives disks a thread of their own in the hypervisor (enable_iothreads).
	IOThreads bool

	// SharedFS is SharedVirtiofs or SharedNone (shared_fs).
	SharedFS string
	// VirtiofsDaemon is the file share's program (virtio_fs_daemon).
	VirtiofsDaemon string
	// VirtiofsCache is never, auto, always or metadata (virtio_fs_cache).
	VirtiofsCache string
	// VirtiofsArgs are further arguments of the program (virtio_fs_extra_args).
	VirtiofsArgs []string
	// Debug lets the hypervisor and the guest's console be logged (enable_debug).
	Debug bool
}

// Runtime is the table [runtime].
type Runtime struct {
	// Debug sets the shim's log level (enable_debug).
	Debug bool
	// CreateContainerTimeout bounds the agent's CreateContainer (create_container_timeout, seconds).
	CreateContainerTimeout time.Duration
	// NetworkModel is how the pod's network gets into the machine, one of the Network constants
	// (internetworking_model).
	NetworkModel string
	// DisableNewNetNS leaves the shim and the machine in the host's network namespace (disable_new_netns). It goes
	// with NetworkNone only.
	DisableNewNetNS bool
	// StaticResources sizes the machine from the sandbox's annotations before it boots, and plugs nothing in later
	// (static_sandbox_resource_mgmt).
	StaticResources bool
	// EmptyDirMode is where emptyDir volumes on disk live, one of the EmptyDir constants (emptydir_mode).
	EmptyDirMode string
	// BindMounts are absolute paths of the host that the guest finds, read-only, in the sandbox-mounts folder of the
	// file share (sandbox_bind_mounts).
	BindMounts []string
	// Pprof serves the shim's profiles on the management socket (enable_pprof).
	Pprof bool
	// DisableGuestSeccomp drops seccomp profiles instead of applying them in the guest (disable_guest_seccomp).
	DisableGuestSeccomp bool
}

// Agent is the table [agent.kata].
type Agent struct {
	// DialTimeout bounds the wait for the agent after the machine was started (dial_timeout, seconds).
	DialTimeout time.Duration
	// Debug makes the agent log more (enable_debug).
	Debug bool
	// DebugConsole lets katadirect exec have a shell in the guest (debug_console_enabled).
	DebugConsole bool
	// KernelModules are loaded in the guest before the sandbox is made; after a module's name come its parameters
	// (kernel_modules).
	KernelModules []string
	// ContainerPipeBytes is the size of the pipes that hold a container's output, 0 is the agent's own choice. Only an
	// annotation sets it (container_pipe_size).
	ContainerPipeBytes int
}

// Direct is the one table of our own, [katadirect]. Kata ignores it.
type Direct struct {
	// Accel is "kvm", "tcg", or empty to find out.
	Accel string
}

// Values of block_device_driver.
const (
	BlockVirtioBlk  = "virtio-blk"
	BlockVirtioSCSI = "virtio-scsi"
)

// Values of shared_fs.
const (
	SharedVirtiofs = "virtio-fs"
	SharedNone     = "none"
)

// Values of internetworking_model. Passt is ours: user-mode networking that needs no privilege over the network.
const (
	NetworkTCFilter = "tcfilter"
	NetworkMacvtap  = "macvtap"
	NetworkPasst    = "passt"
	NetworkNone     = "none"
)

// Values of emptydir_mode.
const (
	EmptyDirShared    = "shared-fs"
	EmptyDirBlock     = "block-plain"
	EmptyDirEncrypted = "block-encrypted"
)

// GuestDir is where the guest's kernel and initrd are looked for when no file names them. The project's image has them
// there, and the node installer takes them from there.
const GuestDir = "/usr/share/katadirect/guest"

// Default is the configuration of a host without a file.
func Default() Config {
	return Config{
		Hypervisor: Hypervisor{
			Path:           "/usr/bin/qemu-system-x86_64",
			Kernel:         GuestDir + "/vmlinux",
			Initrd:         GuestDir + "/initrd",
			MemoryMiB:      2048,
			VCPUs:          1,
			MemorySlots:    10,
			Bridges:        1,
			BlockDriver:    BlockVirtioBlk,
			BlockAIO:       "threads",
			SharedFS:       SharedVirtiofs,
			VirtiofsDaemon: "/usr/lib/qemu/virtiofsd",
			VirtiofsCache:  "auto",
			VirtiofsArgs:   []string{"--thread-pool-size=1", "--announce-submounts"},
		},
		Runtime: Runtime{
			CreateContainerTimeout: 60 * time.Second,
			NetworkModel:           NetworkTCFilter,
			EmptyDirMode:           EmptyDirShared,
		},
		Agent: Agent{DialTimeout: 45 * time.Second},
	}
}
