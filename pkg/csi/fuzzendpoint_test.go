package csi

import (
	"path/filepath"
	"strings"
	"testing"
)

func FuzzEndpoint(f *testing.F) {
	for _, endpoint := range []string{"unix:///run/csi.sock", "unix:/run/csi.sock", "/run/csi.sock", "tcp://:1", "unix://run", ""} {
		f.Add(endpoint)
	}
	f.Fuzz(func(t *testing.T, endpoint string) {
		if path, err := SocketPath(endpoint); err == nil && (!filepath.IsAbs(path) || !strings.HasSuffix(endpoint, path)) {
			t.Errorf("%q is the socket %q", endpoint, path)
		}
	})
}
