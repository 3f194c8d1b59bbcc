// Package claims says how the claims of a cluster are whose volumes the driver has: what the API server knows of claim,
// volume, pods, snapshots and events, joined with what the driver on the volume's node knows (pkg/csi/facts), which is
// asked for through the API server's proxy to the driver's pod. kubectl-katadirect is the caller.
//
//	reader.go      what is read from the API server
//	drivers.go     what the drivers are asked
//	join.go        which belongs to which
//	words.go       what went wrong last
//	condition.go   how a volume is, in one word
//
// It only looks. What cannot be found out is left empty, and said in a note with what to do about it. How anything is
// printed must never move in here.
package claims

import (
	"time"

	"github.com/katadirect/katadirect/pkg/csi/facts"
)

// Driver is the CSI driver's name, and topologyKey the key of the node in a volume's affinity.
const (
	Driver      = "csi.katadirect.io"
	topologyKey = "topology.katadirect.io/node"
)

// View is how the claims are.
type View struct {
	Volumes []Volume `json:"volumes"`
	// Nodes are those whose drivers were asked.
	Nodes []Node `json:"nodes"`
	// Notes are what could not be found out, why, and what to do about it.
	Notes []string `json:"notes,omitempty"`
}

// Volume is one claim, or one volume in a pod's own spec. Its JSON is read by programs: fields are added, never renamed.
type Volume struct {
	Namespace string `json:"namespace"`
	// Claim is the claim's name; "" for an inline volume, which has Inline, its name in the pod's spec.
	Claim  string `json:"claim,omitempty"`
	Inline string `json:"inline,omitempty"`

	Phase            string    `json:"phase,omitempty"`
	Created          time.Time `json:"created"`
	StorageClass     string    `json:"storageClass,omitempty"`
	AttributesClass  string    `json:"attributesClass,omitempty"`
	AccessModes      []string  `json:"accessModes,omitempty"`
	RequestedBytes   int64     `json:"requestedBytes,omitempty"`
	CapacityBytes    int64     `json:"capacityBytes,omitempty"`
	PersistentVolume string    `json:"persistentVolume,omitempty"`
	Handle           string    `json:"handle,omitempty"`
	Node             string    `json:"node,omitempty"`

	Pods []Pod `json:"pods,omitempty"`
	// Snapshots are those of the claim; nil if they could not be listed.
	Snapshots []Snapshot `json:"snapshots"`
	// Condition is how the volume is, in one word or a few with commas.
	Condition string `json:"condition"`
	// Facts are what the volume's node knows. Without them Missing says why.
	Facts   *facts.Volume `json:"facts,omitempty"`
	Missing string        `json:"missing,omitempty"`
	// Wrong is what went wrong, the latest first.
	Wrong []Wrong `json:"wrong,omitempty"`

	conditions []claimCondition
	uid        string
}

// Pod is one that uses a claim.
type Pod struct {
	Name         string `json:"name"`
	Phase        string `json:"phase"`
	Node         string `json:"node,omitempty"`
	RuntimeClass string `json:"runtimeClass,omitempty"`

	uid string
}

// Snapshot is a VolumeSnapshot of a claim.
type Snapshot struct {
	Name      string    `json:"name"`
	Ready     bool      `json:"ready"`
	Created   time.Time `json:"created"`
	SizeBytes int64     `json:"sizeBytes,omitempty"`
	Error     string    `json:"error,omitempty"`
}

// Node is one node's driver.
type Node struct {
	Name    string      `json:"name"`
	Pod     string      `json:"pod,omitempty"`
	Version string      `json:"version,omitempty"`
	Pool    *facts.Pool `json:"pool,omitempty"`
	// Problem is why it could not be asked.
	Problem string `json:"problem,omitempty"`
}

// Wrong is one thing that went wrong, in words.
type Wrong struct {
	Time  time.Time `json:"time"`
	Times int       `json:"times"`
	// About is what it happened to: "volume", "claim" or "pod NAME".
	About string `json:"about"`
	Words string `json:"words"`
	// Over is when it was good again, nil if that is not known.
	Over *time.Time `json:"over,omitempty"`
}

type claimCondition struct {
	kind, message string
	since         time.Time
}

// Name is how the volume is called in its namespace.
func (v Volume) Name() string {
	if v.Claim == "" && len(v.Pods) > 0 {
		return v.Pods[0].Name + "/" + v.Inline
	}
	return v.Claim
}
