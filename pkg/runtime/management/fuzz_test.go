package management

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

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

func FuzzRequests(f *testing.F) {
	for _, body := range []string{
		"", "{", "null", "[]", `{"VolumePath":"/dev/x","Size":1}`, `{"VolumePath":"/dev/x","Size":-1}`, `{"VolumePath":1}`,
		`{"VolumePath":"/dev/x","Size":1e300}`, `{"VolumePath":"/dev/x","Size":18446744073709551616}`, "\xff\x00",
	} {
		f.Add(directvolume.PathResize, "", []byte(body))
	}
	for _, query := range []string{"", "path=", "path=%", "path=%2Fdev%2Fx", "path=/dev/x&path=/dev/y", "path=L2Rldi94", ";;;;", "path=%00"} {
		f.Add(directvolume.PathStats, query, []byte(nil))
	}
	f.Fuzz(func(t *testing.T, path, query string, body []byte) {
		r := httptest.NewRequest(http.MethodPost, "http://shim/", bytes.NewReader(body))
		r.URL = &url.URL{Path: path, RawQuery: query}
		for _, known := range []string{directvolume.PathStats, directvolume.PathResize} {
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
