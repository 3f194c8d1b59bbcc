// Package telemetry is what an operator sees of the CSI driver: Prometheus metrics, OpenTelemetry traces, the checks
// whether it lives and is ready, and the fields that tie log lines to the call they belong to.
//
//	calls.go       counts and times every RPC; package csi's interceptor tells it of each
//	state.go       pool, volumes and records, read when somebody scrapes
//	health.go      a Probe over the driver's own socket
//	machines.go    /metrics/machines, what the shims of machines with volumes tell
//	report.go      /volumes, how each volume is, for kubectl katadirect
//	endpoint.go    all of these over HTTP
//	tracing.go     spans, exported over OTLP when the environment asks for it
//	log.go         the request's number and the trace's id in every line of a call
//
// Package csi and cmd/csi-node are the callers. Nothing of how volumes work must move in: what is reported comes
// through Source. docs/observability.md names every metric, and a test holds it to the code.
package telemetry
