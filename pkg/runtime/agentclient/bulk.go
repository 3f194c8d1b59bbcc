package agentclient

import "github.com/katadirect/katadirect/pkg/runtime/agentclient/express"

// maxNames bounds the names of a container and a process in a request that the agent is to take from its library: there
// it looks into requests of 2 KiB and less. containerd's have 76 bytes at most.
const maxNames = 1 << 10

// writeExpress writes what is left, past the ttrpc library.
func (r *Reader) writeExpress(to express.Sink) (written int64, err error) {
	sink := &remembering{Sink: to}
	written, err = r.client.express.Copy(r.ctx, express.Stream{
		Container: r.container, Exec: r.exec, Stderr: r.method == "ReadStderr"}, sink)
	if err != nil && sink.err == nil {
		err = r.client.failure(r.ctx, "Stream", err)
	}
	return written, err
}

// remembering keeps the sink's own error apart from the agent's.
type remembering struct {
	express.Sink
	err error
}

func (s *remembering) Write(p []byte) (n int, err error) {
	n, s.err = s.Sink.Write(p)
	return n, s.err
}
