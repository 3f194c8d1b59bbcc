// Package agentproto is the guest agent's protocol: the messages and the two
// ttrpc services, grpc.AgentService and grpc.Health, as Kata Containers 4.1
// has them on the wire, and the conversion of an OCI runtime specification to
// and from the protocol's own form of it.
//
// The shim (pkg/runtime) calls through the clients made here, the guest agent
// (pkg/agent) serves through the registration functions. Everything in
// *.pb.go is made from proto/ by hack/generate.sh. What a call means, and
// anything that acts on one, belongs to those two packages and not in here.
package agentproto
