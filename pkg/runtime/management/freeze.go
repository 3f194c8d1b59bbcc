package management

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/volume"
)

func freeze(b Backend, w http.ResponseWriter, r *http.Request) error {
	var request directvolume.FreezeRequest
	if err := read(r, &request); err != nil {
		return err
	}
	if request.VolumePath == "" {
		return fmt.Errorf("%w: VolumePath (the host's device) must be given", errRequest)
	}
	if request.LimitMilliseconds > uint64(directvolume.MaxFreeze.Milliseconds()) {
		return volume.ErrLimit
	}
	answer, err := b.FreezeVolume(r.Context(), request.VolumePath, time.Duration(request.LimitMilliseconds)*time.Millisecond)
	if err != nil {
		return err
	}
	return reply(w, answer)
}

func thaw(b Backend, w http.ResponseWriter, r *http.Request) error {
	var request directvolume.ThawRequest
	if err := read(r, &request); err != nil {
		return err
	}
	if request.VolumePath == "" {
		return fmt.Errorf("%w: VolumePath (the host's device) must be given", errRequest)
	}
	answer, err := b.ThawVolume(r.Context(), request.VolumePath, request.ID)
	if err != nil {
		return err
	}
	return reply(w, answer)
}

func list(b Backend, w http.ResponseWriter, r *http.Request) error {
	return reply(w, b.Volumes(r.Context()))
}

func reply(w http.ResponseWriter, answer any) error {
	body, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body)
	return nil
}
