package management

import (
	"fmt"
	"net/http"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

func throttle(b Backend, w http.ResponseWriter, r *http.Request) error {
	var request directvolume.ThrottleRequest
	if err := read(r, &request); err != nil {
		return err
	}
	if request.VolumePath == "" {
		return fmt.Errorf("%w: VolumePath (the host's device) must be given", errRequest)
	}
	if err := b.ThrottleVolume(r.Context(), request.VolumePath, request.Limits); err != nil {
		return err
	}
	return reply(w, struct{}{})
}
