package csi

import (
	"regexp"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// TopologyKey is the label under which a node's name stands in topology segments.
const TopologyKey = "topology.katadirect.io/node"

// topology is this node's place. It is a node id, because a volume is on one node.
type topology string

// labelValue is what Kubernetes accepts as the value of a label, which is what a topology segment becomes.
var labelValue = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)

func checkNodeID(id string) error {
	if !labelValue.MatchString(id) {
		return failf(ErrInvalidArgument, "the node id %q cannot be the value of the label %s: "+
			"1 to 63 letters, digits, \"-\", \"_\" or \".\", the first and the last a letter or digit", id, TopologyKey)
	}
	return nil
}

func (t topology) segment() *csi.Topology {
	return &csi.Topology{Segments: map[string]string{TopologyKey: string(t)}}
}

func (t topology) here() []*csi.Topology { return []*csi.Topology{t.segment()} }

// holds reports whether a place is, or encloses, this node. Keys of others say nothing about it.
func (t topology) holds(place *csi.Topology) bool {
	node, named := place.GetSegments()[TopologyKey]
	return !named || node == string(t)
}

// accept returns ErrNoTopology when the volume must be elsewhere. Only requisite places bind; preferred
// ones are a wish.
func (t topology) accept(r *csi.TopologyRequirement) error {
	places := r.GetRequisite()
	if len(places) == 0 {
		return nil
	}
	for _, place := range places {
		if t.holds(place) {
			return nil
		}
	}
	return failf(ErrNoTopology, "the volume is asked for in %v, and this is node %q", places, string(t))
}
