package csi

import (
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

func TestWhoHasTheVolumeIsNamedByItsPod(t *testing.T) {
	h := newBlockHost(t)
	for name, v := range map[string]volume{"mounted": h.create("mounted"), "raw": h.create("raw", asBlock)} {
		t.Run(name, func(t *testing.T) {
			must(t, v.stage())
			target := h.target(name)
			request := v.publishRequest(target)
			request.VolumeContext = map[string]string{contextPodNamespace: "shop", contextPodName: "db-0"}
			_, err := h.NodePublishVolume(t.Context(), request)
			must(t, err)
			refused(t, v.publish(h.target("second")), codes.FailedPrecondition, "pod shop/db-0", "one pod at a time", target)
			s := h.runShim("sandbox-"+name, nil)
			s.claim(target)
			refused(t, v.publish(h.target("second")), codes.FailedPrecondition, "pod shop/db-0", "sandbox-"+name)
			s.release(target)
			// A kubelet that says less does not make it another publication.
			must(t, v.publish(target))
			if record, err := h.store().Get(t.Context(), target); err != nil || record.Metadata[directvolume.MetadataVolumeID] != v.id {
				t.Errorf("%+v, %v", record, err)
			}
			must(t, v.unpublish(target))
			must(t, v.unstage())
		})
	}
}
