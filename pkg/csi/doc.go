// Package csi is the CSI driver: the identity, controller and node services of csi.katadirect.io in one process.
//
// In direct mode nothing is mounted on the host. CreateVolume makes an image in the pool; NodePublishVolume writes a
// record that says which image stands behind the target path; the runtime's shim finds the record, plugs the image
// into the pod's machine and has the guest mount it; NodeExpandVolume and NodeGetVolumeStats reach the guest through
// the shim's management socket.
//
// A call passes through these layers, each in a file of its own:
//
//	intercept.go   panics recovered, errors mapped to gRPC codes (errors.go), one log line, secrets left out
//	telemetry/     metrics, traces and health checks; observe.go tells them how the volumes are
//	serial.go      a second call for the same volume or target path is refused with ABORTED at once (locks.go)
//	controller.go, node.go, publish.go, expand.go, stats.go    the services, plain: validate, act, return
//	pool/, stage/, records.go, guest.go    volumes, staged state, records, the guest
//	mode/, kube/, hostmount/               which pod gets a volume how, who knows that, mounts of the host
//
// Three things on disk hold all state, and none repeats another: the pool says which volumes there are, stage/ says
// what is staged, the records of pkg/directvolume say what is published and which sandbox has it.
//
// A pod that is no machine gets a mount of the host instead, if the volume's mode says so (modes.go, hostpublish.go).
//
// cmd/csi-node is the caller. How a machine runs must never move in, and neither must any reading of what a guest has
// written: guestdata.go decides what the host may mount, hostmount/ mounts it.
package csi
