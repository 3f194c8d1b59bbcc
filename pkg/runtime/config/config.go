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
	Path       string
	Hypervisor Hypervisor
	Runtime    Runtime
	Agent      Agent
	Direct     Direct
}

// Hypervisor is the table [hypervisor.qemu].
type Hypervisor struct {
	// Path is the hypervisor's program (path).
	Path string
	// Kernel and Initrd are the guest's files (kernel, initrd).
	Kernel, Initrd string
	// KernelParams are appended to the guest's command line (kernel_params).
	KernelParams string
	// MemoryMiB is the machine's memory (default_memory).
	MemoryMiB int
	// VCPUs is the number of processors (default_vcpus), at least 1.
	VCPUs int
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
	// DisableGuestSeccomp drops seccomp profiles instead of applying them in the guest (disable_guest_seccomp).
	DisableGuestSeccomp bool
}

// Agent is the table [agent.kata].
type Agent struct {
	// DialTimeout bounds the wait for the agent after the machine was started (dial_timeout, seconds).
	DialTimeout time.Duration
	// Debug makes the agent log more (enable_debug).
	Debug bool
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

// GuestDir is where the guest's kernel and initrd are looked for when no file names them.
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
			Bridges:        1,
			BlockDriver:    BlockVirtioBlk,
			BlockAIO:       "threads",
			VirtiofsDaemon: "/usr/lib/qemu/virtiofsd",
			VirtiofsCache:  "auto",
			VirtiofsArgs:   []string{"--thread-pool-size=1", "--announce-submounts"},
		},
		Runtime: Runtime{CreateContainerTimeout: 60 * time.Second},
		Agent:   Agent{DialTimeout: 45 * time.Second},
	}
}
