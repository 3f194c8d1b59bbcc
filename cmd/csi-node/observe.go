package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/katadirect/katadirect/internal/version"
	"github.com/katadirect/katadirect/pkg/csi"
	"github.com/katadirect/katadirect/pkg/csi/facts"
	"github.com/katadirect/katadirect/pkg/csi/telemetry"
)

// defaultMaxVolumes is how many volumes have metrics of their own unless told otherwise.
const defaultMaxVolumes = 1000

// observing are the flags of metrics and health checks.
type observing struct {
	address    string
	maxVolumes int
}

func (o *observing) flags(f *flag.FlagSet) {
	f.StringVar(&o.address, "http-endpoint", "", "TCP address for /metrics, /healthz and /readyz, for instance 127.0.0.1:9809; none if empty")
	f.IntVar(&o.maxVolumes, "metrics-volumes", defaultMaxVolumes, "at most so many volumes have metrics of their own")
}

func (o *observing) check() error {
	if o.maxVolumes < 0 {
		return fmt.Errorf("--metrics-volumes %d is negative", o.maxVolumes)
	}
	return nil
}

// endpoint is the HTTP side of a driver. With no address there is none, and nothing of it costs anything.
type endpoint struct {
	observing
	registry *prometheus.Registry
	listener net.Listener
}

// open takes the address, so that one that is taken is known before anything else is done, and makes the registry.
func (o observing) open(ctx context.Context) (*endpoint, error) {
	if o.address == "" {
		return nil, nil
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", o.address)
	if err != nil {
		return nil, fmt.Errorf("--http-endpoint: %w", err)
	}
	return &endpoint{observing: o, registry: telemetry.NewRegistry(version.Version), listener: listener}, nil
}

// calls are the metrics of RPCs, nil if nobody can ask for them.
func (e *endpoint) calls() *telemetry.Calls {
	if e == nil {
		return nil
	}
	return telemetry.NewCalls(e.registry)
}

// addr is where it listens, "" if it does not.
func (e *endpoint) addr() string {
	if e == nil {
		return ""
	}
	return e.listener.Addr().String()
}

// serve answers until ctx ends.
func (e *endpoint) serve(ctx context.Context, o options, driver *csi.Driver) (err error) {
	if e == nil {
		return nil
	}
	path, err := csi.SocketPath(o.endpoint)
	if err != nil {
		return err
	}
	health, err := telemetry.NewHealth(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, health.Close()) }()
	telemetry.RegisterState(e.registry, driver, e.maxVolumes, o.driver.Log)
	return telemetry.Serve(ctx, e.listener, telemetry.Handler(e.registry, health, map[string]http.Handler{
		facts.Path:             telemetry.Reports(driver, o.driver.Log),
		telemetry.MachinesPath: telemetry.Machines(driver, o.driver.Log),
	}))
}

// close gives the address back if nobody served there.
func (e *endpoint) close() error {
	if e == nil {
		return nil
	}
	if err := e.listener.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
