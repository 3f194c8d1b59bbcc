package agentproto_test

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

func TestServicesAnswerUnderKatasNames(t *testing.T) {
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	agentproto.RegisterAgentServiceService(server, agentproto.Unimplemented{})
	agentproto.RegisterHealthService(server, health{})
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(context.Background(), listener) }()
	t.Cleanup(func() { server.Close(); <-done })
	conn, err := net.Dial("unix", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	t.Cleanup(func() { client.Close() })

	var answer agentproto.HealthCheckResponse
	if err := client.Call(t.Context(), "grpc.Health", "Check", &agentproto.CheckRequest{}, &answer); err != nil {
		t.Fatal(err)
	}
	if answer.Status != agentproto.HealthCheckResponse_SERVING {
		t.Errorf("health = %v", answer.Status)
	}
	err = client.Call(t.Context(), "grpc.AgentService", "ResizeVolume", &agentproto.ResizeVolumeRequest{}, &agentproto.Empty{})
	want := "/grpc.AgentService/ResizeVolume is not implemented by this agent"
	if s := status.Convert(err); s.Code() != codes.Unimplemented || s.Message() != want {
		t.Errorf("unimplemented method answered %v", err)
	}
}

type health struct{}

func (health) Check(context.Context, *agentproto.CheckRequest) (*agentproto.HealthCheckResponse, error) {
	return &agentproto.HealthCheckResponse{Status: agentproto.HealthCheckResponse_SERVING}, nil
}

func (health) Version(context.Context, *agentproto.CheckRequest) (*agentproto.VersionCheckResponse, error) {
	return &agentproto.VersionCheckResponse{}, nil
}

// compiler is where protoc writes its own version into what it makes.
var compiler = regexp.MustCompile(`(?m)^//\s+protoc\s+v.*$`)

func TestGeneratedCodeIsCurrent(t *testing.T) {
	if _, err := exec.LookPath("protoc"); err != nil {
		t.Fatalf("%v (Debian: protobuf-compiler; hack/setup.sh installs it)", err)
	}
	dir := t.TempDir()
	if out, err := exec.Command("../../hack/generate.sh", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	made, err := filepath.Glob(filepath.Join(dir, "*.pb.go"))
	if err != nil || len(made) == 0 {
		t.Fatalf("nothing was generated: %v", err)
	}
	for _, name := range made {
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Base(name))
		if err != nil || !bytes.Equal(compiler.ReplaceAll(got, nil), compiler.ReplaceAll(want, nil)) {
			t.Errorf("%s is out of date; run hack/generate.sh (%v)", filepath.Base(name), err)
		}
	}
}
