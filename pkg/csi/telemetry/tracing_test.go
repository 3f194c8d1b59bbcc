package telemetry

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	otlp "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// collected is a collector of traces that keeps what it gets.
type collected struct {
	otlp.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans []*spans.ResourceSpans // guarded by mu
}

func (c *collected) Export(_ context.Context, r *otlp.ExportTraceServiceRequest) (*otlp.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spans = append(c.spans, r.GetResourceSpans()...)
	return &otlp.ExportTraceServiceResponse{}, nil
}

// all returns every span by its name, and the attributes of their resource.
func (c *collected) all() (byName map[string]*spans.Span, resource map[string]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	byName = map[string]*spans.Span{}
	for _, r := range c.spans {
		resource = attributes(r.GetResource().GetAttributes())
		for _, scope := range r.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				byName[s.GetName()] = s
			}
		}
	}
	return byName, resource
}

func attributes(all []*common.KeyValue) map[string]string {
	m := map[string]string{}
	for _, a := range all {
		m[a.GetKey()] = a.GetValue().GetStringValue()
	}
	return m
}

// serve serves what register adds on a free port of this machine, until the test ends if not before.
func serve(t *testing.T, register func(*grpc.Server), options ...grpc.ServerOption) (address string, server *grpc.Server) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server = grpc.NewServer(options...)
	register(server)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return listener.Addr().String(), server
}

// named is an identity service that does a step, logs, and fails.
type named struct {
	csi.UnimplementedIdentityServer
	log *slog.Logger
}

func (n named) GetPluginInfo(ctx context.Context, _ *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	TraceVolume(ctx, "kd-1")
	_, end := GuestSpan(ctx, "ask the guest", "sandbox1")
	end(errors.New("it sleeps"))
	n.log.InfoContext(WithRequest(ctx, 7), "hello")
	return &csi.GetPluginInfoResponse{}, nil
}

func (named) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{}, nil
}

func TestACallIsTracedUnderItsCallersTrace(t *testing.T) {
	got := &collected{}
	collector, _ := serve(t, func(s *grpc.Server) { otlp.RegisterTraceServiceServer(s, got) })
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+collector)
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "k8s.cluster.name=here")
	tracing, err := StartTracing(t.Context(), "csi-node", "v1", "node-1", quiet)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	service := named{log: slog.New(LogHandler{slog.NewTextHandler(&log, nil)})}
	address, server := serve(t, func(s *grpc.Server) { csi.RegisterIdentityServer(s, service) }, tracing.ServerOptions()...)
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const trace = "0af7651916cd43dd8448eb211c80319c"
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-"+trace+"-b7ad6b7169203331-01")
	client := csi.NewIdentityClient(conn)
	if _, err := client.GetPluginInfo(ctx, &csi.GetPluginInfoRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Probe(ctx, &csi.ProbeRequest{}); err != nil {
		t.Fatal(err)
	}
	server.GracefulStop() // a call's span ends after its answer has left
	if err := tracing.Close(); err != nil {
		t.Fatal(err)
	}

	byName, resource := got.all()
	call, step := byName["csi.v1.Identity/GetPluginInfo"], byName["ask the guest"]
	if call == nil || step == nil || len(byName) != 2 {
		t.Fatalf("exported %v, want the call and its step, and no Probe", byName)
	}
	for _, s := range []*spans.Span{call, step} {
		if id := hex(s.GetTraceId()); id != trace {
			t.Errorf("%s is in trace %s, want the caller's", s.GetName(), id)
		}
	}
	if hex(step.GetParentSpanId()) != hex(call.GetSpanId()) || step.GetStatus().GetMessage() != "it sleeps" ||
		attributes(step.GetAttributes())["katadirect.sandbox"] != "sandbox1" {
		t.Errorf("the step is %v", step)
	}
	if volume := attributes(call.GetAttributes())["katadirect.volume"]; volume != "kd-1" {
		t.Errorf("the call's volume is %q", volume)
	}
	for key, want := range map[string]string{
		"service.name": "csi-node", "service.version": "v1", "k8s.node.name": "node-1", "k8s.cluster.name": "here",
	} {
		if resource[key] != want {
			t.Errorf("the resource's %s is %q, want %q", key, resource[key], want)
		}
	}
	if line := log.String(); !strings.Contains(line, "request=7") || !strings.Contains(line, "trace="+trace) {
		t.Errorf("the call's line in the log: %s", line)
	}
}

func hex(id []byte) string {
	const digits = "0123456789abcdef"
	var s strings.Builder
	for _, b := range id {
		s.WriteByte(digits[b>>4])
		s.WriteByte(digits[b&15])
	}
	return s.String()
}

func TestWithoutACollectorNothingIsStarted(t *testing.T) {
	tests := map[string]map[string]string{
		"nothing said":  {},
		"exporter none": {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
		"sdk disabled":  {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
	}
	for name, environment := range tests {
		t.Run(name, func(t *testing.T) {
			for _, name := range []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED"} {
				t.Setenv(name, environment[name])
			}
			before := runtime.NumGoroutine()
			tracing, err := StartTracing(t.Context(), "csi-node", "v1", "node-1", quiet)
			if tracing != nil || err != nil || len(tracing.ServerOptions()) > 0 || tracing.Close() != nil {
				t.Errorf("tracing is %v, %v", tracing, err)
			}
			after := runtime.NumGoroutine()
			// What an earlier test has left to end may have started one more on its way out.
			for end := time.Now().Add(10 * time.Second); after > before && time.Now().Before(end); after = runtime.NumGoroutine() {
				time.Sleep(10 * time.Millisecond)
			}
			if after > before {
				t.Errorf("%d goroutines became %d", before, after)
			}
			ctx, end := GuestSpan(t.Context(), "step", "sandbox1")
			end(nil)
			if ctx != t.Context() {
				t.Error("a step of a call that is not traced made a context")
			}
		})
	}
}

// The collector's absence must delay neither calls nor the end by more than the time for the last spans.
func TestACollectorThatIsAwayIsSaidInTheLogAndNothingElse(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
	tracing, err := StartTracing(t.Context(), "csi-node", "v1", "node-1", quiet)
	if err != nil {
		t.Fatal(err)
	}
	address, _ := serve(t, func(s *grpc.Server) { csi.RegisterIdentityServer(s, named{log: quiet}) }, tracing.ServerOptions()...)
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := csi.NewIdentityClient(conn).GetPluginInfo(t.Context(), &csi.GetPluginInfoRequest{}); err != nil {
		t.Error(err)
	}
	if err := tracing.Close(); err == nil {
		t.Error("spans were handed over to nobody")
	}
}
