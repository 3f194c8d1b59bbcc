package server

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/katadirect/katadirect/pkg/agent/container"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

// processRequest is what requests for a first and for a later process have in
// common.
type processRequest interface {
	GetStringUser() *agentproto.StringUser
	GetStdinPort() uint32
	GetStdoutPort() uint32
	GetStderrPort() uint32
}

// refuse names the fields of a request that this agent does not know what to do
// with. Kata's shim leaves them empty with QEMU; a process without what they ask
// for would run as somebody else, without its streams or its files.
func refuse(req processRequest) error {
	var names []string
	for name, set := range map[string]bool{
		"string_user": proto.Size(req.GetStringUser()) > 0,
		"stdin_port":  req.GetStdinPort() > 0, "stdout_port": req.GetStdoutPort() > 0, "stderr_port": req.GetStderrPort() > 0,
	} {
		if set {
			names = append(names, name)
		}
	}
	if c, ok := req.(*agentproto.CreateContainerRequest); ok && len(c.GetSharedMounts()) > 0 {
		names = append(names, "shared_mounts")
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names) // a map has no order, and the same request gets the same answer
	return fmt.Errorf("%w: this agent does not have: %s", container.ErrSpec, strings.Join(names, ", "))
}
