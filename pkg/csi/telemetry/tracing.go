package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path"
	"strings"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"
)

// flushTimeout bounds how long the driver's end waits for the last spans to be taken.
const flushTimeout = 5 * time.Second

// tracerName is the scope of the spans made here.
const tracerName = "github.com/katadirect/katadirect/pkg/csi"

// Tracing exports spans. A nil *Tracing does nothing, and costs nothing.
type Tracing struct {
	provider *sdktrace.TracerProvider
}

// TracingWanted reports whether OpenTelemetry's own environment variables ask for traces over OTLP.
func TracingWanted() bool {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") || os.Getenv("OTEL_TRACES_EXPORTER") == "none" {
		return false
	}
	return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
}

// StartTracing returns nil unless TracingWanted. The exporter, the sampler and the resource follow OpenTelemetry's
// environment variables; a collector that is away is tried again, and spans that it misses are dropped, never kept
// without bound. Nothing here can fail or delay a call.
func StartTracing(ctx context.Context, program, version, node string, log *slog.Logger) (*Tracing, error) {
	if !TracingWanted() {
		return nil, nil
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("traces are not exported", "error", err) }))
	exporter, err := otlptracegrpc.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("export traces: %w", err)
	}
	own := resource.NewSchemaless(
		attribute.String("service.name", program), attribute.String("service.version", version),
		attribute.String("k8s.node.name", node))
	from, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("export traces: %w", err)
	}
	merged, err := resource.Merge(own, from) // the environment wins
	if err != nil {
		return nil, fmt.Errorf("export traces: %w", err)
	}
	return &Tracing{provider: sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(merged))}, nil
}

// ServerOptions makes a gRPC server trace its calls, and go on with the traces of its callers.
func (t *Tracing) ServerOptions() []grpc.ServerOption {
	if t == nil {
		return nil
	}
	return []grpc.ServerOption{grpc.StatsHandler(otelgrpc.NewServerHandler(
		otelgrpc.WithTracerProvider(t.provider),
		otelgrpc.WithMeterProvider(metricnoop.NewMeterProvider()), // that is Prometheus' work
		otelgrpc.WithPropagators(propagation.TraceContext{}),
		otelgrpc.WithFilter(func(info *stats.RPCTagInfo) bool { return !chatter(path.Base(info.FullMethodName)) }),
	))}
}

// chatter are the calls that come every few seconds and say nothing.
func chatter(method string) bool {
	return method == "Probe" || strings.HasSuffix(method, "GetCapabilities")
}

// Close hands over the spans that are left, within a bounded time.
func (t *Tracing) Close() error {
	if t == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("hand over the last traces: %w", err)
	}
	return nil
}

// GuestSpan begins the span of a request to a sandbox, within a traced call. end takes the request's error. In a call
// that is not traced both do nothing.
func GuestSpan(ctx context.Context, name, sandboxID string) (_ context.Context, end func(error)) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, func(error) {}
	}
	ctx, span := parent.TracerProvider().Tracer(tracerName).Start(ctx, name, trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(attribute.String("katadirect.sandbox", sandboxID)))
	return ctx, func(err error) {
		if err != nil {
			span.RecordError(err)
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
	}
}

// TraceVolume puts the id of a call's volume into the call's span.
func TraceVolume(ctx context.Context, id string) {
	trace.SpanFromContext(ctx).SetAttributes(attribute.String("katadirect.volume", id))
}
