package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
)

// callSeconds are the bounds of the histogram: from a call that only reads memory to one that waits for a guest until
// kubelet gives it up.
var callSeconds = []float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 120}

// freezeSeconds are the bounds of the histogram of freezes, which end by themselves after a minute at the most.
var freezeSeconds = []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60}

// Calls counts and times RPCs, and how long they made volumes stand still. Its labels are bounded: methods are those of the CSI services (a call of an unknown
// one never gets here), codes those of gRPC. A nil *Calls counts nothing.
type Calls struct {
	total    *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	inFlight *prometheus.GaugeVec
	frozen   prometheus.Histogram
}

// NewCalls makes the metrics and registers them.
func NewCalls(registry prometheus.Registerer) *Calls {
	c := &Calls{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "katadirect_csi_calls_total", Help: "Answered RPCs.",
		}, []string{"method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "katadirect_csi_call_duration_seconds", Help: "How long RPCs took, whatever came of them.", Buckets: callSeconds,
		}, []string{"method"}),
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "katadirect_csi_calls_in_flight", Help: "RPCs that are under way.",
		}, []string{"method"}),
		frozen: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "katadirect_csi_freeze_duration_seconds", Help: "How long volumes in use stood still for snapshots.", Buckets: freezeSeconds,
		}),
	}
	registry.MustRegister(c.total, c.seconds, c.inFlight, c.frozen)
	return c
}

// Begin says that an RPC has begun. The function that it returns says how it ended, and must be called once.
func (c *Calls) Begin(method string) (end func(codes.Code)) {
	if c == nil {
		return func(codes.Code) {}
	}
	start := time.Now()
	running := c.inFlight.WithLabelValues(method)
	running.Inc()
	return func(code codes.Code) {
		running.Dec()
		c.seconds.WithLabelValues(method).Observe(time.Since(start).Seconds())
		c.total.WithLabelValues(method, code.String()).Inc()
	}
}

// Froze says that volumes have stood still.
func (c *Calls) Froze(howLong time.Duration) {
	if c != nil {
		c.frozen.Observe(howLong.Seconds())
	}
}
