// Package vm describes a pod's virtual machine as the rest of the shim sees it: a small interface, so that the
// hypervisor behind it can be exchanged. It holds types only; pkg/runtime/qemu implements them. Nothing here may
// know of containers, records or Kubernetes.
//
// The life of a Machine, in order:
//
//	m := qemu.New(cfg)            // nothing started, nothing on disk
//	err := m.Start(ctx)           // the hypervisor runs and answers its control socket; the guest is booting
//	conn, err := m.DialAgent(ctx) // waits until the guest's agent listens; bounded by ctx
//	addr, err := m.PlugDisk(ctx, vm.Disk{…})
//	err = m.ResizeDisk(ctx, id, bytes)
//	err = m.ThrottleDisk(ctx, id, limits)
//	err = m.UnplugDisk(ctx, id)   // only after the guest has unmounted it: QEMU does not refuse otherwise
//	err = m.Stop(ctx)             // idempotent; after it no process, socket or folder of the machine is left
//
// Done is closed when the hypervisor is gone for whatever reason; Err then says why.
package vm

import (
	"context"
	"errors"
	"net"
	"os"
	"time"
)

// Machine is one pod's virtual machine. Its methods may be called from several goroutines at once; disk
// operations on different disks do not wait for each other longer than one control command takes.
type Machine interface {
	// Start boots the machine and returns when the hypervisor has answered. It undoes everything on error.
	Start(ctx context.Context) error
	// DialAgent connects to the agent in the guest, waiting for it to listen until ctx ends.
	// The connection carries ttrpc. One connection at a time.
	DialAgent(ctx context.Context) (net.Conn, error)
	// AgentURL names the agent channel in Kata's form (vsock://CID:1024, hvsock://PATH:1024) or, for a
	// virtio-serial port, as vserial://PATH.
	AgentURL() string
	// PlugDisk hot-plugs d and returns where the guest finds it.
	PlugDisk(ctx context.Context, d Disk) (DiskAddress, error)
	// UnplugDisk takes the disk with that id out and releases its backing. Unplugging an unknown id succeeds.
	UnplugDisk(ctx context.Context, id string) error
	// ResizeDisk makes the disk sizeBytes large. It returns ErrShrink if that is less than it has now.
	ResizeDisk(ctx context.Context, id string, sizeBytes int64) error
	// ThrottleDisk makes limits, all of them, hold for the disk; zero is none. They go with the disk.
	ThrottleDisk(ctx context.Context, id string, limits DiskLimits) error
	// CopyDisk begins to copy a disk, as it is at this moment, into the regular file at target, an absolute host path of a
	// file that is as large. The guest goes on writing to the disk. It returns ErrCopying while one is under way.
	// Unplugging the disk cancels the copy, and the disk does not grow before the copy ends.
	CopyDisk(ctx context.Context, id, target string) (DiskCopy, error)
	// DiskFaults says what errors the host had with the disk since it was plugged.
	DiskFaults(id string) DiskFaults
	// GrowVCPUs plugs processors in until the machine has total, and returns how many those were. The guest has to bring
	// them into use. It returns ErrLimit if the machine cannot have as many; fewer than it has now is no error.
	GrowVCPUs(ctx context.Context, total int) (plugged int, err error)
	// GrowMemory plugs memory in until the machine has at least totalMiB, in steps of MemoryStepMiB, and returns
	// how much it has now. It returns ErrLimit if the machine cannot have as much; less than it has now is no error.
	GrowMemory(ctx context.Context, totalMiB int) (nowMiB int, err error)
	// PID is the hypervisor's process id, 0 before Start.
	PID() int
	// Done is closed when the hypervisor process has ended.
	Done() <-chan struct{}
	// Err says why the hypervisor ended; nil while it runs and after Stop.
	Err() error
	// Stop ends the hypervisor (SIGKILL if it must) and removes what Start made.
	Stop(ctx context.Context) error
}

// MemoryStepMiB is the unit in which a guest on x86 takes plugged memory: one block of Linux' sparse memory model.
const MemoryStepMiB = 128

// Disk is a block device or a raw image file of the host that is to appear in the guest.
type Disk struct {
	// ID is unique in the machine, made of [a-z0-9-], at most 20 bytes; it becomes the virtio-blk serial.
	ID string
	// Path is the absolute host path of a block special or regular file.
	Path     string
	ReadOnly bool
}

// DiskAddress says where the guest finds a disk, in the words of the agent's Storage message: Driver is "blk"
// with Source a PCI path of two-digit hex slots ("02/01"), or "scsi" with Source "id:lun".
type DiskAddress struct {
	Driver string
	Source string
}

// DiskLimits bound what the guest may do with a disk in a second. Zero is no limit. A total goes together with neither of
// its parts; a burst is what the total may rise to for BurstSeconds, 1 if zero.
type DiskLimits struct {
	IOPS, ReadIOPS, WriteIOPS                               uint64
	BytesPerSecond, ReadBytesPerSecond, WriteBytesPerSecond uint64
	BurstIOPS, BurstBytesPerSecond, BurstSeconds            uint64
}

// DiskFaults counts the requests of the guest that failed on the host and were answered with an error.
type DiskFaults struct {
	Reads, Writes uint64
	// Last is when the latest failed, and Reason the hypervisor's word for why.
	Last   time.Time
	Reason string
}

// DiskCopy is a copy of a disk under way.
type DiskCopy interface {
	// Done is closed when it has ended, and nobody writes to the target any more.
	Done() <-chan struct{}
	// Err is nil as long as it goes on and when it has ended well, else ErrCopyEnded with the reason.
	Err() error
	// Progress says how much of the work is done.
	Progress(ctx context.Context) (copiedBytes, totalBytes int64, err error)
	// Cancel ends it and waits for its end. Cancelling one that has ended succeeds.
	Cancel(ctx context.Context) error
}

// NIC is a network card that the machine has from its start. What carries its frames belongs to the caller, who
// closes it when the machine has started; the machine has its own copies then.
type NIC struct {
	MAC net.HardwareAddr
	// Taps are the queues of an open tap device, or
	Taps []*os.File
	// Stream is a connected socket that carries the frames, each with its length before it.
	Stream *os.File
}

var (
	// ErrShrink is returned for a resize below the present size.
	ErrShrink = errors.New("a disk cannot be made smaller")
	// ErrNoSlot is returned when the machine has no free slot for one more disk.
	ErrNoSlot = errors.New("no free slot for another disk")
	// ErrInUse is returned when the disk's backing is already held by another machine or process.
	ErrInUse = errors.New("disk is in use by another machine")
	// ErrLimit is returned for more processors or memory than the machine was made for.
	ErrLimit = errors.New("more than the machine can be given while it runs")
	// ErrCopying is returned for what cannot be done to a disk that is being copied.
	ErrCopying = errors.New("the disk is being copied")
	// ErrCopyEnded says that a copy has ended before it was whole.
	ErrCopyEnded = errors.New("the copy is not whole")
	// ErrNotFound is returned for a disk id the machine does not have.
	ErrNotFound = errors.New("no such disk in the machine")
	// ErrGone is returned by every operation after the hypervisor has ended.
	ErrGone = errors.New("virtual machine is gone")
)
