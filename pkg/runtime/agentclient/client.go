// Package agentclient speaks to the agent in a guest: every call is bounded in time as in Kata, says which call
// failed and why, and a guest that hangs up, stops answering or answers nonsense becomes an error.
//
// The sandbox makes one Client per machine. The guest is not trusted: whatever it answers may cost this process only
// bounded time, memory and log. What a call is for must never move in here.
package agentclient

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katadirect/katadirect/internal/calltimes"
	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/agentclient/express"
)

// Kata's own time limits (kata_agent.go); CreateContainer's comes from the configuration.
const (
	checkTimeout   = 30 * time.Second
	requestTimeout = 60 * time.Second
)

// freezeTimeout is above the time that the agent lets a volume be written out: the longest that it may be frozen.
const freezeTimeout = 75 * time.Second

// ErrGone says that the connection to the agent is lost; no further call can succeed.
var ErrGone = errors.New("the agent in the guest is gone")

// ErrNoAnswer says that the agent did not answer within the call's time limit.
var ErrNoAnswer = errors.New("the agent in the guest did not answer in time")

// Error is the agent's own answer that a call failed.
type Error struct {
	// Method is the call's name without its service, for example CreateContainer.
	Method string
	Code   codes.Code
	// Message is the agent's text, cut to maxMessage bytes.
	Message string
}

func (e *Error) Error() string { return "agent: " + e.Method + ": " + e.Message }

// IsCode reports whether err is the agent's answer with that code.
func IsCode(err error, code codes.Code) bool {
	var answer *Error
	return errors.As(err, &answer) && answer.Code == code
}

// maxMessage bounds what of a guest's error text goes on to logs and events.
const maxMessage = 2 << 10

// Options are a client's settings.
type Options struct {
	// CreateContainerTimeout is create_container_timeout; 0 is Kata's 60 s.
	CreateContainerTimeout time.Duration
	// Standing, if not nil, says whether the machine stands still for now, or has since then, and will go on: a guest that
	// takes nothing in meanwhile is not dead.
	Standing func(since time.Time) bool
	Log      *slog.Logger
}

// Client calls one agent. Its methods may be called from several goroutines.
type Client struct {
	agentproto.AgentServiceService
	agentproto.VolumesService

	health   agentproto.HealthService
	console  agentproto.ConsoleService
	ports    agentproto.PortsService
	rpc      *ttrpc.Client
	conn     *boundedConn
	express  *express.Conn // before conn
	gone     chan struct{}
	limits   map[string]time.Duration // by method; those not named have requestTimeout, 0 is none
	features Features
	times    calltimes.Times
}

// New makes a client of the connection and owns it from now on.
func New(conn net.Conn, o Options) *Client {
	boundLibraryLog(o.Log)
	create := o.CreateContainerTimeout
	if create == 0 {
		create = requestTimeout
	}
	c := &Client{
		gone: make(chan struct{}),
		limits: map[string]time.Duration{
			"Check":           checkTimeout,
			"CreateContainer": create,
			"Freeze":          freezeTimeout,
			// These wait for a process or for a person.
			"WaitProcess": 0, "GetOOMEvent": 0, "ReadStdout": 0, "ReadStderr": 0, "WriteStdin": 0,
			// The debug console's, the same.
			"Read": 0, "Write": 0, "Wait": 0,
			// Those of connections to ports wait for whoever is at the other end.
			"Dial": dialPortTimeout, "Receive": 0, "Send": 0,
		},
	}
	c.conn = &boundedConn{Conn: conn, standing: o.Standing, log: o.Log}
	c.express = express.Wrap(c.conn)
	c.rpc = ttrpc.NewClient(c.express,
		ttrpc.WithOnClose(func() { close(c.gone) }), ttrpc.WithUnaryClientInterceptor(c.call))
	c.AgentServiceService = agentproto.NewAgentServiceClient(c.rpc)
	c.VolumesService = agentproto.NewVolumesClient(c.rpc)
	c.console = agentproto.NewConsoleClient(c.rpc)
	c.ports = agentproto.NewPortsClient(c.rpc)
	c.health = agentproto.NewHealthClient(c.rpc)
	return c
}

// Close hangs up. Calls under way return ErrGone. Idempotent.
func (c *Client) Close() error { return c.rpc.Close() }

// Gone is closed when the connection is lost or was closed.
func (c *Client) Gone() <-chan struct{} { return c.gone }

// call bounds one call and gives its error a name.
func (c *Client) call(
	ctx context.Context, req *ttrpc.Request, resp *ttrpc.Response, _ *ttrpc.UnaryClientInfo, invoke ttrpc.Invoker,
) error {
	limit, named := c.limits[req.Method]
	if !named {
		limit = requestTimeout
	}
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, ErrNoAnswer)
		defer cancel()
		deadline, _ := ctx.Deadline()
		req.TimeoutNano = time.Until(deadline).Nanoseconds()
	}
	began := time.Now()
	err := invoke(ctx, req, resp)
	c.times.Took(action(req.Method), time.Since(began))
	if err != nil {
		return c.failure(ctx, req.Method, err)
	}
	if kept, ok := ctx.Value(keptPayload{}).(*[]byte); ok {
		*kept, resp.Payload = resp.Payload, nil
	}
	if len(resp.GetPayload()) > maxAnswerBytes && req.Method != "ReadStdout" && req.Method != "ReadStderr" {
		_ = c.Close()
		return fmt.Errorf("agent: %s: %w: %w: %d bytes", req.Method, ErrGone, errTooLarge, len(resp.GetPayload()))
	}
	if s := resp.GetStatus(); s.GetCode() != int32(codes.OK) {
		return answer(req.Method, status.FromProto(s))
	}
	return nil
}

func (c *Client) failure(ctx context.Context, method string, err error) error {
	if s, ok := status.FromError(err); ok {
		return answer(method, s)
	}
	if errors.Is(err, context.DeadlineExceeded) && context.Cause(ctx) == ErrNoAnswer {
		return fmt.Errorf("agent: %s: %w", method, ErrNoAnswer)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("agent: %s: %w", method, err)
	}
	if errors.Is(err, express.ErrAnswer) {
		return fmt.Errorf("agent: %s: %w: %w", method, errStream, err)
	}
	// Everything else is the connection: closed, broken, or no longer making sense.
	if errors.Is(err, ttrpc.ErrClosed) {
		return fmt.Errorf("agent: %s: %w", method, c.lost())
	}
	return fmt.Errorf("agent: %s: %w: %w", method, ErrGone, err)
}

// lost is ErrGone, with the reason if it was this side that has hung up.
func (c *Client) lost() error {
	if why := c.conn.why(); why != nil {
		return fmt.Errorf("%w: %w", ErrGone, why)
	}
	return ErrGone
}

func answer(method string, s *status.Status) error {
	return &Error{Method: method, Code: s.Code(), Message: readable(s.Message(), maxMessage)}
}
