package telemetry

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/otel/trace"
)

type requestKey struct{}

// WithRequest returns a context whose log lines have the number of the call.
func WithRequest(ctx context.Context, number uint64) context.Context {
	return context.WithValue(ctx, requestKey{}, number)
}

// LogHandler adds to every line that is logged with a call's context the call's number and, if it is traced, the
// trace's id. So lines of the services, of the pool and of whatever they call can be told apart without any of them
// knowing of calls.
type LogHandler struct{ slog.Handler }

// Handle implements slog.Handler.
func (h LogHandler) Handle(ctx context.Context, r slog.Record) error {
	if number, ok := ctx.Value(requestKey{}).(uint64); ok {
		r.AddAttrs(slog.Uint64("request", number))
	}
	if span := trace.SpanContextFromContext(ctx); span.IsSampled() {
		r.AddAttrs(slog.String("trace", span.TraceID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h LogHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return LogHandler{h.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (h LogHandler) WithGroup(name string) slog.Handler { return LogHandler{h.Handler.WithGroup(name)} }
