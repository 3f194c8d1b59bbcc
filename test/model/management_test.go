package model

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

// management is a sandbox's management socket, whose guest does at once what it is asked. Nobody writes to a volume while
// calls are under way here, so a copy that is made before the answer is of one moment.
func management() http.Handler {
	mux := http.NewServeMux()
	answer := func(path string, value any) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(value) })
	}
	mux.HandleFunc(directvolume.PathResize, func(http.ResponseWriter, *http.Request) {})
	answer(directvolume.PathThrottle, struct{}{})
	answer(directvolume.PathStats, directvolume.VolumeStats{Usage: []directvolume.VolumeUsage{
		{Total: 1000, Used: 400, Available: 600, Unit: directvolume.UnitBytes},
	}})
	answer(directvolume.PathFreeze, directvolume.Freeze{ID: 1, RemainingMilliseconds: 10_000})
	answer(directvolume.PathThaw, directvolume.Thaw{WasFrozen: true})
	mux.HandleFunc(directvolume.PathCopy, func(w http.ResponseWriter, r *http.Request) {
		var request directvolume.CopyRequest
		err := json.NewDecoder(r.Body).Decode(&request)
		if err == nil {
			err = copyData(request.VolumePath, request.TargetPath)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(directvolume.CopyState{ID: 2})
	})
	answer(directvolume.PathCopyState, directvolume.CopyState{ID: 2, Done: true})
	answer(directvolume.PathCopyCancel, directvolume.CopyState{ID: 2, Done: true})
	return mux
}

// copyData copies what is no hole.
func copyData(from, to string) (err error) {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	for at := int64(0); ; {
		data, err := source.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return err
		}
		hole, err := source.Seek(data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(target, data), io.NewSectionReader(source, data, hole-data)); err != nil {
			return err
		}
		at = hole
	}
}
