package csi

import (
	"slices"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katadirect/katadirect/pkg/csi/pool"
	"github.com/katadirect/katadirect/pkg/csi/trouble"
)

// troubles notes how calls for volumes end, for those who ask what went wrong with a volume last.
type troubles struct {
	log  *trouble.Log
	idOf func(name string) string // the id that a volume of that name has
}

// endedBy are the troubles that a call's success puts an end to, beside those of the call itself: what is being taken
// away is not missed any more.
var endedBy = map[string][]string{
	"NodeUnpublishVolume": {"NodePublishVolume"},
	"NodeUnstageVolume":   {"NodePublishVolume", "NodeStageVolume"},
}

// note is told of every call. What only asks does not count: that a guest is silent, as while it boots, is a problem of the
// volume's health and is said there. ABORTED says only that another call is under way, and a caller who has gone says
// nothing of the volume.
func (t troubles) note(request any, method string, err error) {
	id := t.volumeOf(request)
	if id == "" || slices.Contains(quiet, method) {
		return
	}
	s := status.Convert(err)
	switch s.Code() {
	case codes.OK:
		if method == "DeleteVolume" {
			t.log.Forget(id)
			return
		}
		t.log.Succeeded(id, time.Now(), append(endedBy[method], method)...)
	case codes.Aborted, codes.Canceled, codes.Unimplemented:
	default:
		t.log.Failed(id, method, s.Code().String(), s.Message(), time.Now())
	}
}

// volumeOf is the id of the volume that a call is about, "" if it is about none or about what cannot be one.
func (t troubles) volumeOf(request any) string {
	id := ""
	switch named := request.(type) {
	case interface{ GetVolumeId() string }:
		id = named.GetVolumeId()
	case interface{ GetSourceVolumeId() string }: // of a snapshot
		id = named.GetSourceVolumeId()
	case interface {
		GetName() string
		GetVolumeCapabilities() []*csi.VolumeCapability
	}:
		if named.GetName() != "" {
			id = t.idOf(named.GetName())
		}
	}
	if id == "" || pool.ValidateID(id) != nil {
		return ""
	}
	return poolIDOf(t.idOf, id)
}
