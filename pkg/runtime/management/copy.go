package management

import (
	"fmt"
	"net/http"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

func startCopy(b Backend, w http.ResponseWriter, r *http.Request) error {
	var request directvolume.CopyRequest
	if err := read(r, &request); err != nil {
		return err
	}
	if request.VolumePath == "" || request.TargetPath == "" {
		return fmt.Errorf("%w: VolumePath (the host's device) and TargetPath (the host's file) must be given", errRequest)
	}
	answer, err := b.CopyVolume(r.Context(), request.VolumePath, request.TargetPath)
	if err != nil {
		return err
	}
	return reply(w, answer)
}

func copyState(b Backend, w http.ResponseWriter, r *http.Request, cancel bool) error {
	var query directvolume.CopyQuery
	if err := read(r, &query); err != nil {
		return err
	}
	if query.VolumePath == "" || query.ID == 0 {
		return fmt.Errorf("%w: VolumePath (the host's device) and ID (of the copy) must be given", errRequest)
	}
	ask := b.VolumeCopy
	if cancel {
		ask = b.CancelCopy
	}
	answer, err := ask(r.Context(), query.VolumePath, query.ID)
	if err != nil {
		return err
	}
	return reply(w, answer)
}
