package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Limits of the endpoint. It serves whoever can reach it, so nobody may hold much of it.
const (
	maxScrapes     = 3 // at once
	maxHeaderBytes = 16 << 10
	readTimeout    = 5 * time.Second
	answerTimeout  = 2 * scrapeTimeout
)

// Handler answers /metrics, /healthz, /readyz and the paths given, to GET alone.
func Handler(registry *prometheus.Registry, health *Health, others map[string]http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.InstrumentMetricHandler(registry, promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		MaxRequestsInFlight: maxScrapes, Timeout: answerTimeout,
	})))
	mux.HandleFunc("GET /healthz", check(health.Live))
	mux.HandleFunc("GET /readyz", check(health.Ready))
	for path, other := range others {
		mux.Handle("GET "+path, other)
	}
	return mux
}

// check answers 200 and "ok", or 503 and why not.
func check(ask func(context.Context) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		if err := ask(r.Context()); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, err)
			return
		}
		fmt.Fprintln(w, "ok")
	}
}

// Serve answers requests on the listener until ctx ends, and closes it.
func Serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{
		Handler: handler, MaxHeaderBytes: maxHeaderBytes, ReadTimeout: readTimeout,
		WriteTimeout: answerTimeout + readTimeout, IdleTimeout: 2 * time.Minute,
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics and health: %w", err)
	}
	return nil
}
