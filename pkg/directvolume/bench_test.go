package directvolume

import (
	"fmt"
	"testing"
)

func BenchmarkMatchingAmongAHundred(b *testing.B) {
	dir := b.TempDir()
	s := NewStore(dir)
	for i := range 100 {
		p := fmt.Sprintf("/var/lib/kubelet/pods/0a8b3a3c-3f6e-4f0e-a3b2-%012d/volumes/kubernetes.io~csi/pvc-%d/mount", i, i)
		if err := s.Add(b.Context(), p, Record{Device: fmt.Sprint("/x/", i), FSType: "ext4", Metadata: map[string]string{MetadataVolumeID: fmt.Sprint(i)}}); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if _, err := s.Matching(b.Context(), func(r Record) bool { return r.Metadata[MetadataVolumeID] == "none" }); err != nil {
			b.Fatal(err)
		}
	}
}
