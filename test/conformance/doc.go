// Package conformance runs Kubernetes' own end-to-end suite, its [NodeConformance] specs, on a cluster where every pod
// is a machine: our handler is containerd's default. Nobody here wrote those tests.
//
// Three lists beside it say what is to be expected of each spec: passes.txt, not-applicable.txt and no-image.txt, a
// full name a line, a reason after " # ". core.txt names those of passes.txt that "make test" runs; the whole takes
// "make conformance". docs/conformance.md has the counts and how to run single specs.
package conformance
