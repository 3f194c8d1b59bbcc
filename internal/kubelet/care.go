package kubelet

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// Modify gives the volume the parameters of a VolumeAttributesClass, as external-resizer does.
func (v *Volume) Modify(ctx context.Context, parameters map[string]string) error {
	return call(ctx, "ControllerModifyVolume", func(ctx context.Context) error {
		_, err := v.node.controller.ControllerModifyVolume(ctx, &csi.ControllerModifyVolumeRequest{
			VolumeId: v.ID, MutableParameters: parameters,
		})
		return err
	})
}

// Health returns what the driver says is wrong with the volume: a message for each reason.
func (v *Volume) Health(ctx context.Context) (map[string]string, error) {
	found := map[string]string{}
	err := call(ctx, "NodeGetVolumeHealth", func(ctx context.Context) error {
		r, err := v.node.node.NodeGetVolumeHealth(ctx, &csi.NodeGetVolumeHealthRequest{VolumeId: v.ID})
		for _, one := range r.GetVolumeHealth().GetHealthStatuses() {
			found[one.GetReason()] = one.GetMessage()
		}
		return err
	})
	return found, err
}
