package qemu

import (
	"io"
	"log/slog"
	"os"
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
	// Bridges is the number of PCI bridges for hot-plugged disks, of 30 slots each; 1 if zero, at most 5.
	Bridges int
	// BlockDriver is VirtioBlk (the default) or VirtioSCSI.
	BlockDriver string
	// BlockAIO is "threads", "native" or "io_uring"; empty leaves the choice to QEMU (threads).
	BlockAIO string
	// ShareSocket is the socket of a running virtiofsd; empty means no file share. ShareTag is the tag the guest
	// mounts, "kataShared" if empty.
	ShareSocket, ShareTag string
	// Vsock asks for a vsock device. It is a wish: hosts without vhost-vsock get a virtio-serial port instead,
	// which AgentURL and the guest's kernel command line both say.
	Vsock bool
	// Lease, if set, is inherited by QEMU, so that a lock on it lasts as long as the machine.
	Lease *os.File
	// Console receives what the guest writes to its console, in whole lines of at most 1 KiB, at a bounded
	// rate. It is called from one goroutine.
	Console io.Writer
	// Debug makes the guest's kernel and agent talk more.
	Debug bool
	// OnEvent, if set, is told what happens to the running machine. It must return soon and not call the Machine.
	OnEvent func(Event)
	// Log defaults to slog.Default().
	Log *slog.Logger
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
	// EventDiskError: the guest got an I/O error.
	EventDiskError EventKind = "disk-error"
	// EventGuestPanic: the guest's kernel said that it panicked.
	EventGuestPanic EventKind = "guest-panic"
)
