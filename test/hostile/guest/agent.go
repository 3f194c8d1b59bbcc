package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

// nasty is text that a person should never get to see as it is: it clears a terminal, sets its title, forges a line of
// containerd's log and one of an event, and writes from right to left.
const nasty = "\x1b[2J\x1b]0;owned\x07\r\ntime=\"2026-01-01T00:00:00Z\" level=fatal msg=\"forged\"\u202e\u2028\x00"

// large is as much as goes into one message that the shim takes.
const large = 256 << 10

var empty = &agentproto.Empty{}

// port is the connection to the host, for evils that break into it.
var port struct {
	sync.Mutex
	net.Conn
}

// remembering keeps the connection that it accepts.
type remembering struct{ net.Listener }

func (l remembering) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	port.Lock()
	defer port.Unlock()
	port.Conn = conn
	return conn, err
}

func serveProtocol(evil string, listener net.Listener) error {
	server, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	a := newAgent(evil)
	agentproto.RegisterAgentServiceService(server, a)
	agentproto.RegisterHealthService(server, health{})
	if evil == "output" {
		agentproto.RegisterOutputService(server, output{a})
	}
	return server.Serve(context.Background(), remembering{listener})
}

type health struct{}

func (health) Check(context.Context, *agentproto.CheckRequest) (*agentproto.HealthCheckResponse, error) {
	return &agentproto.HealthCheckResponse{Status: agentproto.HealthCheckResponse_SERVING}, nil
}

func (health) Version(context.Context, *agentproto.CheckRequest) (*agentproto.VersionCheckResponse, error) {
	return &agentproto.VersionCheckResponse{AgentVersion: nasty, GrpcVersion: nasty}, nil
}

// agent makes everything and runs nothing.
type agent struct {
	agentproto.Unimplemented
	evil string // from the command line

	mu     sync.Mutex
	evils  map[string]string // by the process's name, as the next two
	ends   map[string]chan struct{}
	ended  map[string]bool
	oomsAt int
}

func newAgent(evil string) *agent {
	return &agent{evil: evil, evils: map[string]string{}, ends: map[string]chan struct{}{}, ended: map[string]bool{}}
}

func failure(times int) error {
	return status.Error(codes.Internal, strings.Repeat(nasty+"the guest's own words ", times))
}

func (a *agent) CreateSandbox(context.Context, *agentproto.CreateSandboxRequest) (*agentproto.Empty, error) {
	if a.evil == "error" {
		return nil, failure(large / len(nasty) / 2)
	}
	return empty, nil
}

func (a *agent) GetGuestDetails(context.Context, *agentproto.GuestDetailsRequest) (*agentproto.GuestDetailsResponse, error) {
	d := &agentproto.AgentDetails{Version: nasty + strings.Repeat("9", 1000)}
	switch a.evil {
	case "details":
		d.ExtraFeatures = make([]string, large/2) // two bytes each
		d.Version = ""
	case "output", "no-output": // of which one has it
		d.ExtraFeatures = []string{"katadirect.output"}
	}
	return &agentproto.GuestDetailsResponse{AgentDetails: d, MemBlockSizeBytes: 1}, nil
}

func (a *agent) CreateContainer(_ context.Context, r *agentproto.CreateContainerRequest) (*agentproto.Empty, error) {
	a.learn(r.GetContainerId(), r.GetOCI().GetProcess())
	return empty, nil
}

func (a *agent) ExecProcess(_ context.Context, r *agentproto.ExecProcessRequest) (*agentproto.Empty, error) {
	switch evil := a.learn(r.GetExecId(), r.GetProcess()); evil {
	case "error":
		return nil, failure(large / len(nasty) / 2)
	case "frame", "garbage":
		port.Lock()
		go breakIn(evil, port.Conn)
		port.Unlock()
	}
	return empty, nil
}

// breakIn sends into the connection, a moment after the answer, what is none.
func breakIn(evil string, conn net.Conn) {
	time.Sleep(200 * time.Millisecond)
	if evil == "frame" {
		endless(conn, hugeFrame())
	}
	endless(conn, []byte(strings.Repeat(nasty, 100)))
}

func (a *agent) learn(process string, p *agentproto.Process) (evil string) {
	if len(p.GetArgs()) > 0 {
		evil = p.GetArgs()[0]
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.evils[process] = evil
	return evil
}

func (a *agent) of(container, process string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.evils[cmp.Or(process, container)]
}

func (a *agent) SignalProcess(_ context.Context, r *agentproto.SignalProcessRequest) (*agentproto.Empty, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if process := cmp.Or(r.GetExecId(), r.GetContainerId()); !a.ended[process] {
		a.ended[process] = true
		close(a.endOf(process))
	}
	return empty, nil
}

// endOf is closed when the process is told to end. The caller holds a.mu.
func (a *agent) endOf(process string) chan struct{} {
	if a.ends[process] == nil {
		a.ends[process] = make(chan struct{})
	}
	return a.ends[process]
}

// await waits until the process is told to end.
func (a *agent) await(ctx context.Context, container, process string) {
	a.mu.Lock()
	end := a.endOf(cmp.Or(process, container))
	a.mu.Unlock()
	select {
	case <-end:
	case <-ctx.Done():
	}
}

func (a *agent) WaitProcess(ctx context.Context, r *agentproto.WaitProcessRequest) (*agentproto.WaitProcessResponse, error) {
	switch a.of(r.GetContainerId(), r.GetExecId()) {
	case "status":
		return &agentproto.WaitProcessResponse{Status: -1 << 31}, nil
	case "wait-error":
		return nil, failure(100)
	case "reads", "beyond", "pieces", "nothing", "reason", "endless":
	default:
		if r.GetExecId() != r.GetContainerId() && r.GetExecId() != "" {
			return &agentproto.WaitProcessResponse{}, nil
		}
	}
	a.await(ctx, r.GetContainerId(), r.GetExecId())
	return &agentproto.WaitProcessResponse{Status: 137}, nil
}

func (a *agent) ReadStdout(ctx context.Context, r *agentproto.ReadStreamRequest) (*agentproto.ReadStreamResponse, error) {
	switch a.of(r.GetContainerId(), r.GetExecId()) {
	case "reads": // more than was asked for
		return &agentproto.ReadStreamResponse{Data: make([]byte, r.GetLen()+1)}, nil
	case "beyond", "pieces", "nothing", "reason": // more of it by the service output
		return &agentproto.ReadStreamResponse{Data: make([]byte, r.GetLen())}, nil
	case "endless": // until it is killed
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.ended[cmp.Or(r.GetExecId(), r.GetContainerId())] {
			return &agentproto.ReadStreamResponse{}, nil
		}
		return &agentproto.ReadStreamResponse{Data: []byte(strings.Repeat(nasty, int(r.GetLen())/len(nasty)))}, nil
	case "sleep":
		a.await(ctx, r.GetContainerId(), r.GetExecId())
	}
	return &agentproto.ReadStreamResponse{}, nil
}

func (a *agent) ReadStderr(context.Context, *agentproto.ReadStreamRequest) (*agentproto.ReadStreamResponse, error) {
	return &agentproto.ReadStreamResponse{}, nil
}

func (a *agent) StatsContainer(_ context.Context, r *agentproto.StatsContainerRequest) (*agentproto.StatsContainerResponse, error) {
	if a.of(r.GetContainerId(), "") == "stats" {
		all := make([]*agentproto.NetworkStats, large/2) // two bytes each
		for i := range all {
			all[i] = &agentproto.NetworkStats{}
		}
		return &agentproto.StatsContainerResponse{NetworkStats: all}, nil
	}
	return &agentproto.StatsContainerResponse{}, nil
}

func (a *agent) GetMetrics(context.Context, *agentproto.GetMetricsRequest) (*agentproto.Metrics, error) {
	return &agentproto.Metrics{Metrics: strings.Repeat("# TYPE a counter\na{b=\""+nasty+"\"} NaN\n", large/100)}, nil
}

// GetOOMEvent tells of one after the other in containers that there never were.
func (a *agent) GetOOMEvent(context.Context, *agentproto.GetOOMEventRequest) (*agentproto.OOMEvent, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.oomsAt++
	return &agentproto.OOMEvent{ContainerId: fmt.Sprint(a.oomsAt, nasty, strings.Repeat("x", large/2))}, nil
}

func (a *agent) GetVolumeStats(context.Context, *agentproto.VolumeStatsRequest) (*agentproto.VolumeStatsResponse, error) {
	return nil, errors.New(nasty)
}

// What follows is done by doing nothing.

func (a *agent) DestroySandbox(context.Context, *agentproto.DestroySandboxRequest) (*agentproto.Empty, error) {
	return empty, nil
}

func (a *agent) StartContainer(context.Context, *agentproto.StartContainerRequest) (*agentproto.Empty, error) {
	return empty, nil
}

func (a *agent) RemoveContainer(context.Context, *agentproto.RemoveContainerRequest) (*agentproto.Empty, error) {
	return empty, nil
}

func (a *agent) CloseStdin(context.Context, *agentproto.CloseStdinRequest) (*agentproto.Empty, error) {
	return empty, nil
}

func (a *agent) UpdateInterface(_ context.Context, r *agentproto.UpdateInterfaceRequest) (*agentproto.Interface, error) {
	return r.GetInterface(), nil
}

func (a *agent) UpdateRoutes(_ context.Context, r *agentproto.UpdateRoutesRequest) (*agentproto.Routes, error) {
	return r.GetRoutes(), nil
}

func (a *agent) AddARPNeighbors(context.Context, *agentproto.AddARPNeighborsRequest) (*agentproto.Empty, error) {
	return empty, nil
}

func (a *agent) OnlineCPUMem(context.Context, *agentproto.OnlineCPUMemRequest) (*agentproto.Empty, error) {
	return empty, nil
}

func (a *agent) SetGuestDateTime(context.Context, *agentproto.SetGuestDateTimeRequest) (*agentproto.Empty, error) {
	return empty, nil
}

func (a *agent) ReseedRandomDev(context.Context, *agentproto.ReseedRandomDevRequest) (*agentproto.Empty, error) {
	return empty, nil
}

func (a *agent) UpdateContainer(context.Context, *agentproto.UpdateContainerRequest) (*agentproto.Empty, error) {
	return empty, nil
}
