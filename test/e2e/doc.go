// Package e2e runs pods with the driver's volumes on a real Kubernetes, from kubectl down to the guest: what kubelet, the
// sidecars and containerd make of claims and pods, what people are told when something cannot be, and what is left on the
// node when all of it is gone.
//
// One cluster serves all scenarios. Each has a namespace of its own, and says step by step what it does: the steps, with
// their times, are the log, and go into the JUnit report. Scenarios that disturb nobody run side by side, the others after
// them. "make e2e" runs it.
package e2e
