// Package monitoring holds deploy/monitoring to what the driver exposes: every metric, label and value that a rule or a
// panel asks for is there, every alert fires when it should and has a section that says what to do.
//
// docs/observability.md is where it looks metrics up; a test of pkg/csi/telemetry holds that page to the code.
package monitoring
