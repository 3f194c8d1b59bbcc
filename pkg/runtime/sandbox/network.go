package sandbox

import (
	"context"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katadirect/katadirect/internal/rollback"
	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/network"
	"github.com/katadirect/katadirect/pkg/runtime/qemu"
)

// joinNetwork wires the pod's interfaces for the machine that is about to start.
func (s *Sandbox) joinNetwork(ctx context.Context, o Options, undo *rollback.Stack) (err error) {
	s.network, err = network.Open(ctx, network.Config{
		Namespace: networkNamespace(o.Spec), Model: s.networkModel(),
		Queues: qemu.NICQueues(s.config.Hypervisor.VCPUs), Record: s.state.setNetwork, Log: s.log,
	})
	if err != nil {
		return err
	}
	undo.Push("leave the pod's network", s.network.Close)
	return nil
}

func (s *Sandbox) networkModel() network.Model {
	if s.config.Runtime.DisableNewNetNS {
		return network.None
	}
	return network.Model(s.config.Runtime.NetworkModel)
}

// networkNamespace is the path of the pod's network namespace; empty for a pod that shares the host's, and for one
// that is to get an empty one.
func networkNamespace(spec *specs.Spec) string {
	if spec.Linux == nil {
		return ""
	}
	for _, n := range spec.Linux.Namespaces {
		if n.Type == specs.NetworkNamespace {
			return n.Path
		}
	}
	return ""
}

// setUpNetwork has the guest set up its cards. It comes before the sandbox is made, as with Kata.
func (s *Sandbox) setUpNetwork(ctx context.Context, _ Options, _ *rollback.Stack) error {
	return s.network.Configure(ctx, s.agent, qemu.NICPath)
}

// IPTables returns the guest's packet filters in the form of iptables-save. It is for the management socket, as is
// SetIPTables.
func (s *Sandbox) IPTables(ctx context.Context, ipv6 bool) ([]byte, error) {
	r, err := s.agent.GetIPTables(ctx, &agentproto.GetIPTablesRequest{IsIpv6: ipv6})
	return r.GetData(), err
}

// SetIPTables replaces them and returns what the guest's tool has said.
func (s *Sandbox) SetIPTables(ctx context.Context, ipv6 bool, rules []byte) ([]byte, error) {
	r, err := s.agent.SetIPTables(ctx, &agentproto.SetIPTablesRequest{IsIpv6: ipv6, Data: rules})
	return r.GetData(), err
}
