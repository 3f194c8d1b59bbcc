package telemetry

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// driver is an identity service on a socket, which answers a Probe as a test tells it.
type driver struct {
	csi.UnimplementedIdentityServer
	probe func(context.Context) (*csi.ProbeResponse, error)
}

func (d driver) Probe(ctx context.Context, _ *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return d.probe(ctx)
}

// endpoint serves the checks of a driver that answers so; nil is a driver that is not there.
func endpoint(t *testing.T, probe func(context.Context) (*csi.ProbeResponse, error)) *httptest.Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "kd") // sockets have short paths
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "csi.sock")
	if probe != nil {
		listener, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		server := grpc.NewServer()
		csi.RegisterIdentityServer(server, driver{probe: probe})
		go server.Serve(listener)
		t.Cleanup(server.Stop)
	}
	health, err := NewHealth(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { health.Close() })
	registry := NewRegistry("v1")
	RegisterState(registry, source{state: full()}, 10, quiet)
	server := httptest.NewServer(Handler(registry, health, nil))
	t.Cleanup(server.Close)
	return server
}

func get(t *testing.T, url string) (code int, body string) {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(data)
}

func TestHealthIsWhatAProbeSays(t *testing.T) {
	answer := func(ready *wrapperspb.BoolValue, err error) func(context.Context) (*csi.ProbeResponse, error) {
		return func(context.Context) (*csi.ProbeResponse, error) { return &csi.ProbeResponse{Ready: ready}, err }
	}
	const ok, failed = http.StatusOK, http.StatusServiceUnavailable
	tests := map[string]struct {
		probe       func(context.Context) (*csi.ProbeResponse, error)
		live, ready int
		why         string
	}{
		"ready":                {answer(wrapperspb.Bool(true), nil), ok, ok, "ok"},
		"says nothing of it":   {answer(nil, nil), ok, ok, "ok"},
		"still starting":       {answer(wrapperspb.Bool(false), nil), ok, failed, "not ready"},
		"the pool is away":     {answer(nil, status.Error(codes.FailedPrecondition, "the pool does not answer")), ok, failed, "the pool does not answer"},
		"nobody on the socket": {nil, failed, failed, "does not answer"},
		"stuck":                {func(ctx context.Context) (*csi.ProbeResponse, error) { <-ctx.Done(); return nil, ctx.Err() }, failed, failed, "does not answer"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := endpoint(t, test.probe)
			if code, body := get(t, server.URL+"/healthz"); code != test.live {
				t.Errorf("/healthz: %d %q, want %d", code, body, test.live)
			}
			if code, body := get(t, server.URL+"/readyz"); code != test.ready || !strings.Contains(body, test.why) {
				t.Errorf("/readyz: %d %q, want %d and %q", code, body, test.ready, test.why)
			}
		})
	}
}

// A flood of checks must not become a flood of Probes.
func TestChecksAtOnceShareOneProbe(t *testing.T) {
	var probes atomic.Int32
	begun, hold := make(chan struct{}), make(chan struct{})
	server := endpoint(t, func(context.Context) (*csi.ProbeResponse, error) {
		if probes.Add(1) == 1 {
			close(begun)
		}
		<-hold
		return &csi.ProbeResponse{}, nil
	})
	const checks = 20
	answered := make(chan int, checks)
	for range checks {
		go func() {
			code, _ := get(t, server.URL+"/healthz")
			answered <- code
		}()
	}
	<-begun
	time.Sleep(200 * time.Millisecond) // so that they wait; fewer that do make the test weaker, not wrong
	shared := probes.Load()            // a check that comes after the answer makes a probe of its own, rightly
	close(hold)
	for range checks {
		if code := <-answered; code != http.StatusOK {
			t.Errorf("answered %d", code)
		}
	}
	if shared != 1 {
		t.Errorf("%d checks made %d probes at once", checks, shared)
	}
}

func TestTheEndpointServesMetricsAndNothingElse(t *testing.T) {
	server := endpoint(t, nil)
	code, body := get(t, server.URL+"/metrics")
	for _, want := range []string{
		"katadirect_csi_build_info{version=\"v1\"} 1\n", "katadirect_csi_volume_used_bytes{volume=\"kd-1\"} 16\n",
		"\ngo_goroutines ", "\nprocess_resident_memory_bytes ",
	} {
		if code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("/metrics answers %d and has no %q:\n%s", code, want, body)
		}
	}
	for _, path := range []string{"/", "/debug/pprof/", "/metrics/x"} {
		if code, _ := get(t, server.URL+path); code != http.StatusNotFound {
			t.Errorf("%s answers %d", path, code)
		}
	}
	response, err := http.Post(server.URL+"/metrics", "text/plain", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST answers %d", response.StatusCode)
	}
}
