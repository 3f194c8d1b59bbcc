package qemu

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// Accelerators of Config.Accel.
const (
	AccelKVM = "kvm"
	AccelTCG = "tcg"
)

// Drivers of Config.BlockDriver, spelled as in Kata's configuration.
const (
	VirtioBlk  = "virtio-blk"
	VirtioSCSI = "virtio-scsi"
)

// Config describes one machine. Only ID, Dir, Kernel and Initrd have no default.
type Config struct {
	// ID is the sandbox id; it names the machine in QEMU's own messages and in the process list.
	ID string
	// Dir is the machine's own folder (control socket, agent socket, pid file). Start makes it, Stop removes it.
	Dir string
	// QEMU is the program, "qemu-system-x86_64" if empty.
	QEMU string
	// Kernel and Initrd are host paths of the guest image.
	Kernel, Initrd string
	// KernelParams are appended to the kernel command line, and so win over what this package puts there.
	KernelParams []string
	// Accel is AccelKVM or AccelTCG. Empty means KVM where /dev/kvm opens: callers ask internal/accel, which
	// knows whether it works.
	Accel string
	// MemoryMiB and VCPUs default to 2048 and 1.
	MemoryMiB, VCPUs int
	// MaxVCPUs and MaxMemoryMiB are how far the machine can be grown while it runs; what is not above VCPUs or MemoryMiB
	// means not at all. MemorySlots is how many times memory can be plugged in, 10 if zero.
	MaxVCPUs, MaxMemoryMiB, MemorySlots int
	// Bridges is the number of PCI bridges for hot-plugged disks, of 30 slots each; 1 if zero, at most 5.
	Bridges int
	// BlockDriver is VirtioBlk (the default) or VirtioSCSI.
	BlockDriver string
	// BlockAIO is "threads", "native" or "io_uring"; empty leaves the choice to QEMU (threads).
	BlockAIO string
	// BlockCache, if set, is how QEMU caches disks; otherwise it does as it likes, and flushes when the guest does.
	BlockCache *BlockCache
	// IOThread gives the disks a thread of their own, beside QEMU's main loop.
	IOThread bool
	// ShareSocket is the socket of a running virtiofsd; empty means no file share. ShareTag is the tag the guest
	// mounts, "kataShared" if empty.
	ShareSocket, ShareTag string
	// Vsock asks for a vsock device. It is a wish: hosts without vhost-vsock get a virtio-serial port instead,
	// which AgentURL and the guest's kernel command line both say.
	Vsock bool
	// NICs are the machine's network cards, at most MaxNICs; NICPath says where the guest finds them.
	NICs []vm.NIC
	// Namespace is the network namespace in which QEMU runs, so that one that a guest has broken out to reaches no
	// more than the pod does; nil is the caller's own.
	Namespace *os.File
	// Lease, if set, is inherited by QEMU, so that a lock on it lasts as long as the machine.
	Lease *os.File
	// Console receives what the guest writes to its console, in whole lines of at most 1 KiB, at a bounded
	// rate. It is called from one goroutine.
	Console io.Writer
	// Debug makes the guest's kernel and agent talk more.
	Debug bool
	// OnEvent is told what happens to the running machine; without it, that goes to Log. It must return soon and
	// not call the Machine.
	OnEvent func(Event)
	// Log defaults to slog.Default().
	Log *slog.Logger
}

// BlockCache is how disks are cached on the host.
type BlockCache struct {
	// Direct goes past the host's page cache. NoFlush drops the guest's flushes: what it has synced is lost with the host.
	Direct, NoFlush bool
}

// Event is something a person would want to know about a running machine.
type Event struct {
	Kind EventKind
	// Message is a sentence for the log.
	Message string
	// DiskID is the disk concerned, empty if none or unknown.
	DiskID string
}

// EventKind says what an Event is about.
type EventKind string

// Kinds of Event.
const (
	// EventStoppedNoSpace: the host has no space left for a write of the guest. The whole machine stands still,
	// nothing is lost, and it goes on by itself once there is space.
	EventStoppedNoSpace EventKind = "stopped-no-space"
	// EventResumed: the machine goes on after EventStoppedNoSpace.
	EventResumed EventKind = "resumed"
	// EventDiskError: the guest got an I/O error. Reported at most every ten seconds.
	EventDiskError EventKind = "disk-error"
)

// Limits of Config.
const (
	defaultQEMU      = "qemu-system-x86_64"
	defaultMemoryMiB = 2048
	defaultShareTag  = "kataShared"
	defaultSlots     = 10 // Kata's
	maxSlots         = 256
	maxBridges       = 5 // Kata's limit too
)

// withDefaults fills in what is empty and refuses what cannot work.
func (c Config) withDefaults() (Config, error) {
	c.QEMU = cmp.Or(c.QEMU, defaultQEMU)
	c.MemoryMiB = cmp.Or(c.MemoryMiB, defaultMemoryMiB)
	c.VCPUs = cmp.Or(c.VCPUs, 1)
	c.MemorySlots = cmp.Or(c.MemorySlots, defaultSlots)
	c.Bridges = cmp.Or(c.Bridges, 1)
	c.BlockDriver = cmp.Or(c.BlockDriver, VirtioBlk)
	c.BlockAIO = cmp.Or(c.BlockAIO, "threads")
	c.ShareTag = cmp.Or(c.ShareTag, defaultShareTag)
	c.Log = cmp.Or(c.Log, slog.Default())
	if c.OnEvent == nil {
		c.OnEvent = func(e Event) { c.Log.Warn("machine: "+e.Message, "event", string(e.Kind), "disk", e.DiskID) }
	}
	switch {
	case c.ID == "":
		return c, errors.New("the machine has no id")
	case !filepath.IsAbs(c.Dir):
		return c, fmt.Errorf("machine folder %q is not an absolute path", c.Dir)
	case c.Bridges < 0 || c.Bridges > maxBridges:
		return c, fmt.Errorf("%d PCI bridges (default_bridges): a machine has 1 to %d", c.Bridges, maxBridges)
	case c.BlockDriver != VirtioBlk && c.BlockDriver != VirtioSCSI:
		return c, fmt.Errorf("block driver %q (block_device_driver): use %s or %s", c.BlockDriver, VirtioBlk, VirtioSCSI)
	case c.BlockAIO != "threads" && c.BlockAIO != "native" && c.BlockAIO != "io_uring":
		return c, fmt.Errorf("block I/O engine %q (block_device_aio): use threads, native or io_uring", c.BlockAIO)
	case c.MemorySlots < 0 || c.MemorySlots > maxSlots:
		return c, fmt.Errorf("%d slots for memory (memory_slots): a machine has 1 to %d", c.MemorySlots, maxSlots)
	case len(c.NICs) > MaxNICs:
		return c, fmt.Errorf("%d network cards: a machine has room for %d", len(c.NICs), MaxNICs)
	case c.MemoryMiB < 0 || c.VCPUs < 0:
		return c, fmt.Errorf("%d MiB of memory and %d processors are no machine", c.MemoryMiB, c.VCPUs)
	}
	// The longest socket path must fit into a sockaddr_un.
	if path := c.agentSocket(); len(path) > maxSocketPath {
		return c, fmt.Errorf("machine folder is too deep: socket path %s is longer than %d bytes", path, maxSocketPath)
	}
	return c, nil
}

const maxSocketPath = 107

// agentSocket is the host's end of the virtio-serial port on which the agent speaks.
func (c Config) agentSocket() string { return filepath.Join(c.Dir, "agent.sock") }

// pidFile is written by QEMU itself. Its path on QEMU's command line is also what Kill knows the process by.
func (c Config) pidFile() string { return pidFile(c.Dir) }

func pidFile(dir string) string { return filepath.Join(dir, "pid") }
