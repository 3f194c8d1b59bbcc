// Package facts is what the driver of one node tells of its volumes, as JSON, to people's tools: GET /volumes of its HTTP
// endpoint answers with a Node. kubectl katadirect reads it through the API server's proxy to the driver's pod.
//
// It holds types only. Fields are added and never renamed: plugin and driver are of different versions in most clusters.
// Nothing in it is secret; docs/kubectl.md says who can read it.
package facts

import "time"

// Path is where the driver's HTTP endpoint answers with a Node. QueryAfter asks for the volumes whose ids come after one,
// for the page after that which ended with it.
const (
	Path       = "/volumes"
	QueryAfter = "after"
)

// Who has a volume.
const (
	HeldByMachine = "machine" // the guest of a virtual machine has mounted it, or has the device
	HeldByHost    = "host"    // the host has mounted it for ordinary pods
	HeldByNobody  = ""
)

// Node is one node's driver and a page of its volumes.
type Node struct {
	Node    string    `json:"node"`
	Version string    `json:"version,omitempty"`
	Time    time.Time `json:"time"`
	Pool    Pool      `json:"pool"`
	Volumes []Volume  `json:"volumes"`
	// Next is what to give as QueryAfter for the next page; "" at the end.
	Next string `json:"next,omitempty"`
}

// Pool is the room that a node has for volumes, in bytes, and what is wrong with it.
type Pool struct {
	Path           string    `json:"path"`
	SizeBytes      int64     `json:"sizeBytes"`
	FreeBytes      int64     `json:"freeBytes"`
	PromisedBytes  int64     `json:"promisedBytes"`
	AvailableBytes int64     `json:"availableBytes"`
	Problems       []Problem `json:"problems,omitempty"`
}

// Volume is one volume as its node knows it.
type Volume struct {
	// ID is the volume's handle in Kubernetes, Name what its maker called it: the PersistentVolume's name, or the handle
	// of an inline volume.
	ID   string `json:"id"`
	Name string `json:"name,omitempty"`
	// FileSystem is "" for a raw block volume.
	FileSystem     string `json:"fileSystem,omitempty"`
	Block          bool   `json:"block,omitempty"`
	SizeBytes      int64  `json:"sizeBytes"`
	AllocatedBytes int64  `json:"allocatedBytes"`

	HeldBy string `json:"heldBy,omitempty"`
	// Pod is namespace/name of who it is published for; "" if nobody or nobody has said.
	Pod      string   `json:"pod,omitempty"`
	Machine  *Machine `json:"machine,omitempty"`
	ReadOnly bool     `json:"readOnly,omitempty"`
	// DeadSandboxes are machines that had the volume and ended without giving it back.
	DeadSandboxes []string `json:"deadSandboxes,omitempty"`

	Usage *Usage `json:"usage,omitempty"`
	// Problems are what is wrong with it now. None means that it is well.
	Problems  []Problem `json:"problems,omitempty"`
	Limits    string    `json:"limits,omitempty"`
	Snapshots int       `json:"snapshots"`
	// Troubles are the calls for it that failed, the latest first.
	Troubles []Trouble `json:"troubles,omitempty"`
}

// Machine is the virtual machine that has a volume, and what the volume is in there.
type Machine struct {
	Sandbox     string `json:"sandbox"`
	GuestDevice string `json:"guestDevice,omitempty"`
	GuestPath   string `json:"guestPath,omitempty"`
	// FrozenSince is there while the volume stands still.
	FrozenSince *time.Time `json:"frozenSince,omitempty"`
	// Unknown is why the rest is missing.
	Unknown string `json:"unknown,omitempty"`
}

// Usage is how full a file system is, in bytes and inodes.
type Usage struct {
	// At is when whoever has mounted it said so.
	At             time.Time `json:"at"`
	TotalBytes     int64     `json:"totalBytes"`
	UsedBytes      int64     `json:"usedBytes"`
	AvailableBytes int64     `json:"availableBytes"`
	Inodes         int64     `json:"inodes,omitempty"`
	InodesUsed     int64     `json:"inodesUsed,omitempty"`
}

// Problem is one thing that is wrong with a volume or a pool. docs/health.md has the reasons.
type Problem struct {
	Severity string `json:"severity"` // degraded, inaccessible or data-loss
	Reason   string `json:"reason"`
	Message  string `json:"message"`
}

// Trouble is a call for a volume that failed, maybe many times in the same way.
type Trouble struct {
	Call    string    `json:"call"` // NodeExpandVolume
	Code    string    `json:"code"` // FailedPrecondition
	Message string    `json:"message"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
	Times   int       `json:"times"`
	// Over is when the same call succeeded; nil while it has not.
	Over *time.Time `json:"over,omitempty"`
}
