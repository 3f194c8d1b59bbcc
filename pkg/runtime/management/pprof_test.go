package management

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

func TestProfilesAreServedOnlyIfAskedFor(t *testing.T) {
	for _, on := range []bool{true, false} {
		path := filepath.Join(t.TempDir(), "s")
		s, err := Serve(path, &sandbox{}, Options{Pprof: on, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close(context.WithoutCancel(t.Context())) }()
		transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}}
		defer transport.CloseIdleConnections()
		client := &http.Client{Transport: transport}
		for target, says := range map[string]string{
			"/debug/pprof/": "goroutine", "/debug/pprof/heap?debug=1": "heap profile", "/debug/vars": "memstats", "/debug/pprof/profile?seconds=1": "",
		} {
			if status, body := ask(t, client, http.MethodGet, target, ""); on != (status == 200) || on && !strings.Contains(body, says) {
				t.Errorf("with %v, %s: %d %.100q", on, target, status, body)
			}
		}
		if status, body := ask(t, client, http.MethodPut, "/policy", "x"); status != http.StatusNotImplemented || !strings.Contains(body, "not supported") {
			t.Errorf("/policy: %d %s", status, body)
		}
	}
}
