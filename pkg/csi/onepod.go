package csi

import (
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/katadirect/katadirect/pkg/csi/pool"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// What kubelet says of the pod in the volume context, if the CSIDriver object has podInfoOnMount.
const (
	contextPodName      = "csi.storage.k8s.io/pod.name"
	contextPodNamespace = "csi.storage.k8s.io/pod.namespace"
)

// forPod notes in the record which pod it is for, where kubelet says so: for the one who is told why another pod does
// not get the volume.
func forPod(record directvolume.Record, r *csi.NodePublishVolumeRequest) directvolume.Record {
	namespace, name := r.GetVolumeContext()[contextPodNamespace], r.GetVolumeContext()[contextPodName]
	if namespace != "" && name != "" {
		record.Metadata[directvolume.MetadataPod] = namespace + "/" + name
	}
	return record
}

// refuseSecondPod says who has the volume. It is published for one pod at a time whatever its access mode: kubelet lets
// any number of pods of the node have a ReadWriteOnce volume, and ReadWriteOncePod is the scheduler's word only as long
// as nobody goes around the scheduler.
func refuseSecondPod(v pool.Volume, other publication) error {
	by := "published"
	if pod := other.record.Metadata[directvolume.MetadataPod]; pod != "" {
		by = "published for pod " + pod
	}
	if len(other.sandboxes) > 0 {
		by += fmt.Sprintf(", and in use by sandbox %s,", other.sandboxes[0])
	}
	return failf(ErrInUse, "volume %s is %s at %s. A direct volume serves one pod at a time, whatever its access mode; "+
		"end that pod first", v.ID, by, other.path)
}
