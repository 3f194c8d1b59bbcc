package management

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"

	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
	"github.com/katadirect/katadirect/pkg/runtime/volume"
)

// routes are Kata's, and like Kata's they take any method.
func routes(b Backend, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	for path, handle := range map[string]func(http.ResponseWriter, *http.Request) error{
		directvolume.PathStats:      func(w http.ResponseWriter, r *http.Request) error { return stats(b, w, r) },
		directvolume.PathResize:     func(w http.ResponseWriter, r *http.Request) error { return resize(b, w, r) },
		directvolume.PathFreeze:     func(w http.ResponseWriter, r *http.Request) error { return freeze(b, w, r) },
		directvolume.PathThaw:       func(w http.ResponseWriter, r *http.Request) error { return thaw(b, w, r) },
		directvolume.PathThrottle:   func(w http.ResponseWriter, r *http.Request) error { return throttle(b, w, r) },
		directvolume.PathCopy:       func(w http.ResponseWriter, r *http.Request) error { return startCopy(b, w, r) },
		directvolume.PathCopyState:  func(w http.ResponseWriter, r *http.Request) error { return copyState(b, w, r, false) },
		directvolume.PathCopyCancel: func(w http.ResponseWriter, r *http.Request) error { return copyState(b, w, r, true) },
		directvolume.PathList:       func(w http.ResponseWriter, r *http.Request) error { return list(b, w, r) },
		"/policy":                   func(http.ResponseWriter, *http.Request) error { return errPolicy },
		pathIPTables:                func(w http.ResponseWriter, r *http.Request) error { return ipTables(b, w, r, false) },
		pathIP6Tables:               func(w http.ResponseWriter, r *http.Request) error { return ipTables(b, w, r, true) },
		directvolume.PathAgentURL:   func(w http.ResponseWriter, _ *http.Request) error { return agentURL(b, w) },
		directvolume.PathMetrics:    func(w http.ResponseWriter, r *http.Request) error { return metrics(b, w, r) },
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxBodyBytes)
			if err := handle(w, r); err != nil {
				log.Warn("management request failed", "path", path, "error", err)
				http.Error(w, err.Error(), statusOf(path, err))
			}
		})
	}
	return mux
}

//lint:ignore ST1005 these are Kata's very words
var errNoPath = errors.New("Required parameter path not found")

// errPolicy is the answer to Kata's /policy, whatever is asked of it.
var errPolicy = errors.New("agent policies are not supported: the agent in the guest does what the shim asks")

// statusOf is the one place where errors become HTTP codes. Kata's Go shim knows 400 for the missing parameter and
// 500 for all else; 501, which it uses for what it does not offer, tells a driver that a retry is of no use.
//
// The paths that are not Kata's tell a request that makes no sense (400) from a volume that is in no state for it
// (409). So do statistics of a volume that no container uses at the moment, and of one whose machine stands still (503),
// which are no fault of the volume. None of them answers 404, which is how Kata's shim says that it does not have the path.
func statusOf(path string, err error) int {
	ours := slices.Contains(oursAlone, path)
	switch {
	case errors.Is(err, errNoPath), ours && errors.Is(err, errRequest), errors.Is(err, volume.ErrLimit),
		errors.Is(err, volume.ErrLimits):
		return http.StatusBadRequest
	case errors.Is(err, volume.ErrCannotGrow), errors.Is(err, volume.ErrCannotFreeze), errors.Is(err, errPolicy),
		errors.Is(err, errMethod):
		return http.StatusNotImplemented
	case ours && unfit(err), path == directvolume.PathStats && errors.Is(err, volume.ErrNotMounted):
		return http.StatusConflict
	case errors.Is(err, volume.ErrStanding):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// oursAlone are the paths by which something is done that Kata's shim does not do.
var oursAlone = []string{
	directvolume.PathFreeze, directvolume.PathThaw, directvolume.PathThrottle,
	directvolume.PathCopy, directvolume.PathCopyState, directvolume.PathCopyCancel,
}

// unfit says that the volume is in no state for the request.
func unfit(err error) bool {
	for _, state := range []error{volume.ErrUnknown, volume.ErrNotMounted, volume.ErrReadOnly, volume.ErrOtherUse, volume.ErrNoCopy, vm.ErrCopying, directvolume.ErrDevice} {
		if errors.Is(err, state) {
			return true
		}
	}
	return false
}

// stats answers for the first of the devices that the query may mean and the sandbox has.
func stats(b Backend, w http.ResponseWriter, r *http.Request) error {
	devices := directvolume.StatsDevices(r.URL.RawQuery)
	if len(devices) == 0 {
		return errNoPath
	}
	got, err := firstKnown(r.Context(), b, devices)
	if err != nil {
		return err
	}
	body, err := json.Marshal(got)
	if err != nil {
		return err
	}
	_, _ = w.Write(body)
	return nil
}

func firstKnown(ctx context.Context, b Backend, devices []string) (directvolume.VolumeStats, error) {
	var first error
	for _, device := range devices {
		got, err := b.VolumeStats(ctx, device)
		if err == nil {
			return got, nil
		}
		if first == nil {
			first = err
		}
		if !errors.Is(err, volume.ErrUnknown) && !errors.Is(err, directvolume.ErrDevice) {
			return directvolume.VolumeStats{}, err // this is the one, and it cannot be asked
		}
	}
	return directvolume.VolumeStats{}, first
}

// errRequest says that a body is not what the path takes.
var errRequest = errors.New("read the request")

// read reads a JSON body. Its size is bounded by the caller.
func read(r *http.Request, request any) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return fmt.Errorf("%w: %w", errRequest, err)
	}
	if err := json.Unmarshal(body, request); err != nil {
		return fmt.Errorf("%w: %w", errRequest, err)
	}
	return nil
}

func resize(b Backend, _ http.ResponseWriter, r *http.Request) error {
	var request directvolume.ResizeRequest
	if err := read(r, &request); err != nil {
		return err
	}
	if request.VolumePath == "" || request.Size == 0 {
		return errors.New("resize: VolumePath (the host's device) and Size (bytes) must both be given")
	}
	return b.ResizeVolume(r.Context(), request.VolumePath, request.Size)
}

func agentURL(b Backend, w http.ResponseWriter) error {
	_, _ = io.WriteString(w, b.AgentURL())
	return nil
}

func metrics(b Backend, w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	return b.Metrics(r.Context()).writeTo(w)
}
