package main

import (
	"context"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

// output is the service katadirect.output.v1.Output of a guest that cares for nobody's credit.
type output struct{ *agent }

// Stream goes on for ever, unless it is about to fail at length.
func (o output) Stream(_ context.Context, to agentproto.Output_StreamServer) error {
	req, err := to.Recv()
	if err != nil {
		return err
	}
	piece := &agentproto.OutputData{}
	switch o.of(req.GetContainerId(), req.GetExecId()) {
	case "reason":
		return failure(large / len(nasty) / 2)
	case "pieces":
		piece.Data = []byte(nasty)
	case "beyond":
		piece.Data = make([]byte, 1<<20)
	}
	for err == nil {
		err = to.Send(piece)
	}
	return err
}
