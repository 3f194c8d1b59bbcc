// Package model holds the driver against a plain model of what must be true. Random sequences of RPCs go over the real
// socket to the real csi-node, some one after the other, some several at once, with the driver restarted or killed with
// SIGKILL in between and in the middle, and with sandboxes that claim volumes, write to them, and die. Every answer must
// be one that the model allows, for calls at once in at least one order; and every now and then all that is on disk
// must be what the model says: volumes with each byte that was written, records, staged state, loop devices. At the
// end of a sequence everything is taken away, and nothing may be left.
//
//	state_test.go     the model: what there is, and what each step does to it
//	steps_test.go     the steps and how a seed makes them
//	world_test.go     the real thing: how a step is carried out
//	order_test.go     whether answers of calls at once fit in some order
//	audit_test.go     whether the disk agrees with the model
//	model_test.go     the tests
//
// A seed fixes which steps there are. How calls at once fall together is up to the machine. Seeds that have failed are
// kept in testdata/seeds, and tried first each time.
package model
