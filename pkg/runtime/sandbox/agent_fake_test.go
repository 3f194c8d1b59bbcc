package sandbox

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

// agent notes what it is told, and fails or hangs when told to.
type agent struct {
	agentproto.Unimplemented
	fail map[string]error
	hang chan struct{} // not nil: nothing is answered until it is closed

	mu       sync.Mutex
	calls    []string
	sandbox  *agentproto.CreateSandboxRequest
	requests map[string]*agentproto.CreateContainerRequest
	exited   map[string]chan struct{}
}

func newAgent() *agent {
	return &agent{
		fail:     make(map[string]error),
		requests: make(map[string]*agentproto.CreateContainerRequest),
		exited:   make(map[string]chan struct{}),
	}
}

func (a *agent) call(name, what string) error {
	a.mu.Lock()
	a.calls = append(a.calls, strings.TrimSpace(name+" "+what))
	hang, err := a.hang, a.fail[name]
	a.mu.Unlock()
	if hang != nil {
		<-hang
	}
	return err
}

// failWith makes the call fail from now on; nil ends that.
func (a *agent) failWith(name string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fail[name] = err
}

func (a *agent) stopAnswering() (resume func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	hang := make(chan struct{})
	a.hang = hang
	return func() { close(hang) }
}

func (a *agent) called(name string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Contains(a.calls, name)
}

func (a *agent) Check(context.Context, *agentproto.CheckRequest) (*agentproto.HealthCheckResponse, error) {
	a.mu.Lock()
	hang, err := a.hang, a.fail["Check"]
	a.mu.Unlock()
	if hang != nil {
		<-hang
	}
	return &agentproto.HealthCheckResponse{Status: agentproto.HealthCheckResponse_SERVING}, err
}

func (a *agent) Version(context.Context, *agentproto.CheckRequest) (*agentproto.VersionCheckResponse, error) {
	return &agentproto.VersionCheckResponse{}, nil
}

func (a *agent) GetGuestDetails(context.Context, *agentproto.GuestDetailsRequest) (*agentproto.GuestDetailsResponse, error) {
	return &agentproto.GuestDetailsResponse{AgentDetails: &agentproto.AgentDetails{
		Version: "test", ExtraFeatures: []string{"katadirect.resize-volume", "katadirect.grow-on-mount"}}}, a.call("GetGuestDetails", "")
}

func (a *agent) CreateSandbox(_ context.Context, r *agentproto.CreateSandboxRequest) (*agentproto.Empty, error) {
	a.mu.Lock()
	a.sandbox = r
	a.mu.Unlock()
	return &agentproto.Empty{}, a.call("CreateSandbox", "")
}

func (a *agent) DestroySandbox(context.Context, *agentproto.DestroySandboxRequest) (*agentproto.Empty, error) {
	return &agentproto.Empty{}, a.call("DestroySandbox", "")
}

func (a *agent) CreateContainer(_ context.Context, r *agentproto.CreateContainerRequest) (*agentproto.Empty, error) {
	if err := a.call("CreateContainer", r.GetContainerId()); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.requests[r.GetContainerId()] = r
	return &agentproto.Empty{}, nil
}

func (a *agent) RemoveContainer(_ context.Context, r *agentproto.RemoveContainerRequest) (*agentproto.Empty, error) {
	if err := a.call("RemoveContainer", r.GetContainerId()); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.requests[r.GetContainerId()]; !ok {
		return nil, status.Error(codes.NotFound, "no such container")
	}
	delete(a.requests, r.GetContainerId())
	return &agentproto.Empty{}, nil
}

func (a *agent) CopyFile(_ context.Context, r *agentproto.CopyFileRequest) (*agentproto.Empty, error) {
	return &agentproto.Empty{}, a.call("CopyFile", string(r.GetData()))
}

func (a *agent) OnlineCPUMem(_ context.Context, r *agentproto.OnlineCPUMemRequest) (*agentproto.Empty, error) {
	return &agentproto.Empty{}, a.call("OnlineCPUMem", fmt.Sprint(r.GetNbCpus()))
}

func (a *agent) UpdateContainer(_ context.Context, r *agentproto.UpdateContainerRequest) (*agentproto.Empty, error) {
	return &agentproto.Empty{}, a.call("UpdateContainer", r.GetContainerId())
}

func (a *agent) SignalProcess(_ context.Context, r *agentproto.SignalProcessRequest) (*agentproto.Empty, error) {
	return &agentproto.Empty{}, a.call("SignalProcess", fmt.Sprintf("%s/%s %d", r.GetContainerId(), r.GetExecId(), r.GetSignal()))
}

func (a *agent) ExecProcess(_ context.Context, r *agentproto.ExecProcessRequest) (*agentproto.Empty, error) {
	return &agentproto.Empty{}, a.call("ExecProcess", r.GetContainerId()+"/"+r.GetExecId())
}

func (a *agent) GetDiagnosticData(_ context.Context, r *agentproto.GetDiagnosticDataRequest) (*agentproto.GetDiagnosticDataResponse, error) {
	return &agentproto.GetDiagnosticDataResponse{Data: "why"}, a.call("GetDiagnosticData", r.GetLogType()+" "+r.GetContainerId())
}

func (a *agent) WaitProcess(_ context.Context, r *agentproto.WaitProcessRequest) (*agentproto.WaitProcessResponse, error) {
	return &agentproto.WaitProcessResponse{Status: 7}, a.call("WaitProcess", r.GetContainerId()+"/"+r.GetExecId())
}
