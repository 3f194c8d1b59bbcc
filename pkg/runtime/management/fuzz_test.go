package management

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

// fuzzBackend fails the test when it is asked for nothing.
type fuzzBackend struct {
	Backend
	t *testing.T
}

func (b fuzzBackend) VolumeStats(_ context.Context, device string) (directvolume.VolumeStats, error) {
	if device == "" {
		b.t.Error("statistics of no device")
	}
	return directvolume.VolumeStats{}, nil
}

func (b fuzzBackend) ResizeVolume(_ context.Context, device string, sizeBytes uint64) error {
	if device == "" || sizeBytes == 0 {
		b.t.Errorf("resize of %q to %d", device, sizeBytes)
	}
	return nil
}

func (b fuzzBackend) FreezeVolume(_ context.Context, device string, limit time.Duration) (directvolume.Freeze, error) {
	if device == "" || limit < 0 || limit > directvolume.MaxFreeze {
		b.t.Errorf("freeze of %q for %s", device, limit)
	}
	return directvolume.Freeze{}, nil
}

func (b fuzzBackend) ThawVolume(_ context.Context, device string, _ uint64) (directvolume.Thaw, error) {
	if device == "" {
		b.t.Error("thaw of no device")
	}
	return directvolume.Thaw{}, nil
}

func (b fuzzBackend) ThrottleVolume(_ context.Context, device string, _ directvolume.Limits) error {
	if device == "" {
		b.t.Error("throttle of no device")
	}
	return nil
}

func (b fuzzBackend) CopyVolume(_ context.Context, device, target string) (directvolume.CopyState, error) {
	if device == "" || target == "" {
		b.t.Errorf("copy of %q to %q", device, target)
	}
	return directvolume.CopyState{}, nil
}

func (b fuzzBackend) VolumeCopy(_ context.Context, device string, id uint64) (directvolume.CopyState, error) {
	if device == "" || id == 0 {
		b.t.Errorf("copy %d of %q", id, device)
	}
	return directvolume.CopyState{}, nil
}

func (b fuzzBackend) CancelCopy(ctx context.Context, device string, id uint64) (directvolume.CopyState, error) {
	return b.VolumeCopy(ctx, device, id)
}

func FuzzRequests(f *testing.F) {
	for _, body := range []string{
		"", "{", "null", "[]", `{"VolumePath":"/dev/x","Size":1}`, `{"VolumePath":"/dev/x","Size":-1}`, `{"VolumePath":1}`,
		`{"VolumePath":"/dev/x","Size":1e300}`, `{"VolumePath":"/dev/x","Size":18446744073709551616}`, "\xff\x00",
	} {
		for _, path := range []string{directvolume.PathResize, directvolume.PathFreeze, directvolume.PathThaw, directvolume.PathThrottle,
			directvolume.PathCopy, directvolume.PathCopyState, directvolume.PathCopyCancel} {
			f.Add(path, "", []byte(body))
		}
	}
	f.Add(directvolume.PathFreeze, "", []byte(`{"VolumePath":"/dev/x","LimitMilliseconds":18446744073709551615}`))
	f.Add(directvolume.PathFreeze, "", []byte(`{"VolumePath":"/dev/x","LimitMilliseconds":9223372036855}`))
	for _, query := range []string{"", "path=", "path=%", "path=%2Fdev%2Fx", "path=/dev/x&path=/dev/y", "path=L2Rldi94", ";;;;", "path=%00"} {
		f.Add(directvolume.PathStats, query, []byte(nil))
	}
	f.Fuzz(func(t *testing.T, path, query string, body []byte) {
		r := httptest.NewRequest(http.MethodPost, "http://shim/", bytes.NewReader(body))
		r.URL = &url.URL{Path: path, RawQuery: query}
		for _, known := range []string{
			directvolume.PathStats, directvolume.PathResize, directvolume.PathFreeze, directvolume.PathThaw,
			directvolume.PathCopy, directvolume.PathCopyState, directvolume.PathCopyCancel,
		} {
			if path == known {
				w := httptest.NewRecorder()
				routes(fuzzBackend{t: t}, slog.New(slog.DiscardHandler)).ServeHTTP(w, r)
				if w.Code != http.StatusOK && w.Code < 400 {
					t.Errorf("answered with %d", w.Code)
				}
			}
		}
	})
}
