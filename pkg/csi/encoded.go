package csi

import (
	"reflect"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/proto"

	"github.com/katadirect/katadirect/pkg/csi/pool"
)

// encoded describes the volumes of one list. Its place, and its StorageClass's parameters, a volume has in common with
// very many others, and both are maps, which are encoded by reflection: for a thousand volumes that takes as long as all
// the rest of their list. So each is encoded once, and the volumes have the bytes. On the wire that is the same message
// (one that is encoded in two pieces is their concatenation), but nobody in this process can read those fields.
type encoded struct {
	place  []*csi.Topology
	common map[uintptr][]byte // by the parameters' map, which the pool shares between volumes
}

func newEncoded(t topology) encoded { return encoded{place: t.here(), common: map[uintptr][]byte{}} }

// describe does what the function of that name does.
func (e encoded) describe(into *csi.Volume, v pool.Volume) error {
	key := reflect.ValueOf(v.Parameters).Pointer()
	common, known := e.common[key]
	if !known {
		var err error
		if common, err = proto.Marshal(&csi.Volume{VolumeContext: v.Parameters, AccessibleTopology: e.place}); err != nil {
			return err
		}
		e.common[key] = common
	}
	describe(into, v)
	into.ProtoReflect().SetUnknown(common)
	return nil
}
