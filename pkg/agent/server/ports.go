package server

import (
	"context"

	"github.com/katadirect/katadirect/pkg/agent/ports"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

// FeaturePorts says that the host can connect to ports of the guest.
const FeaturePorts = "katadirect.ports"

// portsService is the service katadirect.ports.v1.Ports.
type portsService struct {
	ports *ports.Ports
	// pipeSize bounds one answer.
	pipeSize int
}

var portDone = &agentproto.PortDone{}

// Dial connects to a port.
func (s portsService) Dial(ctx context.Context, req *agentproto.DialPortRequest) (*agentproto.DialPortResponse, error) {
	id, err := s.ports.Dial(ctx, req.GetPort())
	if err != nil {
		return nil, err
	}
	return &agentproto.DialPortResponse{Id: id}, nil
}

// Receive waits for data.
func (s portsService) Receive(_ context.Context, req *agentproto.ReceivePortRequest) (*agentproto.ReceivePortResponse, error) {
	data, err := s.ports.Receive(req.GetId(), int(min(uint64(req.GetLen()), uint64(s.pipeSize))))
	if err != nil {
		return nil, err
	}
	return &agentproto.ReceivePortResponse{Data: data}, nil
}

// Send sends data.
func (s portsService) Send(_ context.Context, req *agentproto.SendPortRequest) (*agentproto.PortDone, error) {
	return portDone, s.ports.Send(req.GetId(), req.GetData(), req.GetClose())
}

// Close ends a connection.
func (s portsService) Close(_ context.Context, req *agentproto.ClosePortRequest) (*agentproto.PortDone, error) {
	s.ports.Close(req.GetId())
	return portDone, nil
}
