package sandbox

import (
	"context"

	"github.com/katadirect/katadirect/internal/rollback"
	"github.com/katadirect/katadirect/pkg/runtime/network"
	"github.com/katadirect/katadirect/pkg/runtime/portforward"
)

// forwardPorts has the pod's localhost answer for the guest's, which is how kubectl port-forward asks. Nobody else needs
// it, so a host that cannot do it still runs the pod. With passt nothing is changed in the namespace, this neither.
func (s *Sandbox) forwardPorts(_ context.Context, _ Options, undo *rollback.Stack) (err error) {
	namespace := s.network.Namespace()
	if namespace == nil || s.networkModel() != network.TCFilter {
		return nil
	}
	if !s.features.Ports {
		s.log.Info("no port-forward: the agent in the guest cannot be asked for its ports")
		return nil
	}
	s.ports, err = portforward.Start(namespace, s.dialPort, s.log)
	if err != nil {
		s.log.Warn("no port-forward", "error", err)
		return nil
	}
	undo.Push("end port-forward", func(context.Context) error { return s.ports.Close() })
	return nil
}

func (s *Sandbox) dialPort(ctx context.Context, port uint16) (portforward.Conn, error) {
	conn, err := s.agent.DialPort(ctx, port)
	if err != nil {
		return nil, err
	}
	return conn, nil
}
