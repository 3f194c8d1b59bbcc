package sanity

import (
	"context"
	"fmt"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/gomega"
)

// Specs of our own, which run as csi-sanity's do. The first stands for the one that is pending there: it waits for the
// driver of its authors, and not for ours.
var _ = sanity.DescribeSanity("Pages", func(sc *sanity.TestContext) {
	var r *sanity.Resources

	ginkgo.BeforeEach(func() {
		r = &sanity.Resources{
			Context: sc, ControllerClient: csi.NewControllerClient(sc.ControllerConn), NodeClient: csi.NewNodeClient(sc.Conn),
		}
	})
	ginkgo.AfterEach(func() { r.Cleanup() })

	volumes := 0
	make := func() string {
		volumes++
		name := fmt.Sprintf("pages-%d-", volumes)
		made := r.MustCreateVolume(context.Background(), sanity.MakeCreateVolumeReq(sc, sanity.UniqueString(name)))
		return made.GetVolume().GetVolumeId()
	}

	ginkgo.It("keep every volume that was there all the time, whatever comes and goes between them", func() {
		var steady []string
		for range 5 {
			steady = append(steady, make())
		}
		slices.Sort(steady)
		var seen []string
		token := ""
		for {
			list, err := r.ListVolumes(context.Background(), &csi.ListVolumesRequest{MaxEntries: 2, StartingToken: token})
			gomega.Expect(err).NotTo(gomega.HaveOccurred())
			gomega.Expect(len(list.GetEntries())).To(gomega.BeNumerically("<=", 2))
			for _, e := range list.GetEntries() {
				seen = append(seen, e.GetVolume().GetVolumeId())
			}
			if token = list.GetNextToken(); token == "" {
				break
			}
			last := seen[len(seen)-1] // the one that the token stands behind
			if !slices.Contains(steady, last) {
				_, err = r.DeleteVolume(context.Background(), &csi.DeleteVolumeRequest{VolumeId: last})
				gomega.Expect(err).NotTo(gomega.HaveOccurred())
			}
			make()
		}
		gomega.Expect(slices.IsSorted(seen)).To(gomega.BeTrue(), "%v is not in the order of the ids", seen)
		gomega.Expect(len(slices.Compact(slices.Clone(seen)))).To(gomega.Equal(len(seen)), "%v has one twice", seen)
		gomega.Expect(seen).To(gomega.ContainElements(steady))
	})

	ginkgo.It("accept the token of a volume that was deleted", func() {
		for range 4 {
			make()
		}
		first, err := r.ListVolumes(context.Background(), &csi.ListVolumesRequest{MaxEntries: 1})
		gomega.Expect(err).NotTo(gomega.HaveOccurred())
		gone := first.GetEntries()[0].GetVolume().GetVolumeId()
		_, err = r.DeleteVolume(context.Background(), &csi.DeleteVolumeRequest{VolumeId: gone})
		gomega.Expect(err).NotTo(gomega.HaveOccurred())
		rest, err := r.ListVolumes(context.Background(), &csi.ListVolumesRequest{StartingToken: first.GetNextToken()})
		gomega.Expect(err).NotTo(gomega.HaveOccurred())
		gomega.Expect(rest.GetEntries()).To(gomega.HaveLen(3))
	})
})
