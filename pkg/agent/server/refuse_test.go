package server

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katadirect/katadirect/pkg/agent/sandbox"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

func TestWhatWouldBePassedOverIsRefusedByItsName(t *testing.T) {
	client := connect(t, &Service{Sandbox: sandbox.New(nil, nil, nil)})
	user := &agentproto.StringUser{Uid: "postgres"}
	for _, req := range []processRequest{
		&agentproto.CreateContainerRequest{ContainerId: "string_user", StringUser: user},
		&agentproto.CreateContainerRequest{ContainerId: "shared_mounts", SharedMounts: []*agentproto.SharedMount{{Name: "x"}}},
		&agentproto.CreateContainerRequest{ContainerId: "stdin_port", StdinPort: 1},
		&agentproto.CreateContainerRequest{ContainerId: "stdout_port", StdoutPort: 1},
		&agentproto.CreateContainerRequest{ContainerId: "stderr_port", StderrPort: 1},
		&agentproto.ExecProcessRequest{ContainerId: "string_user", StringUser: user},
		&agentproto.ExecProcessRequest{ContainerId: "stdout_port", StdoutPort: 1},
	} {
		var err error
		var name string
		switch r := req.(type) {
		case *agentproto.CreateContainerRequest:
			name = r.GetContainerId()
			_, err = client.CreateContainer(t.Context(), r)
		case *agentproto.ExecProcessRequest:
			name = r.GetContainerId()
			_, err = client.ExecProcess(t.Context(), r)
		}
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "does not have: "+name) {
			t.Errorf("%T with %s: %v", req, name, err)
		}
	}
	for _, req := range []processRequest{
		&agentproto.CreateContainerRequest{StringUser: &agentproto.StringUser{}}, &agentproto.ExecProcessRequest{},
	} {
		if err := refuse(req); err != nil {
			t.Errorf("%T without any: %v", req, err)
		}
	}
}
