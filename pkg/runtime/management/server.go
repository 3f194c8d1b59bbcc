// Package management serves a sandbox's management socket: HTTP on a unix socket, with the paths, queries, bodies and
// answers of Kata's Go shim, so that kata-runtime, Kata's monitor and any CSI driver for direct volumes can ask.
//
// The sandbox starts one Server and is its Backend. Whoever can open the socket is root on the host; the guest cannot.
// The words of the protocol are pkg/directvolume's, which holds the client. What the answers are must never move in
// here.
package management

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/katadirect/katadirect/internal/console"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// Bounds on what a client may cost. A device's path has at most 4 KiB, which encoding may triple.
const (
	maxHeaderBytes = 24 << 10
	maxBodyBytes   = 64 << 10
	maxConns       = 16
	headerTimeout  = 5 * time.Second
	requestTimeout = 2 * time.Minute // above the agent's own limit for one call
	idleTimeout    = 30 * time.Second
)

// Backend answers. Its methods are called from several goroutines.
type Backend interface {
	// VolumeStats and ResizeVolume take the host's device, as the record has it.
	VolumeStats(ctx context.Context, device string) (directvolume.VolumeStats, error)
	ResizeVolume(ctx context.Context, device string, sizeBytes uint64) error
	// FreezeVolume, ThawVolume, ThrottleVolume and Volumes are beyond Kata's; see directvolume.FreezeRequest.
	FreezeVolume(ctx context.Context, device string, limit time.Duration) (directvolume.Freeze, error)
	ThawVolume(ctx context.Context, device string, id uint64) (directvolume.Thaw, error)
	ThrottleVolume(ctx context.Context, device string, limits directvolume.Limits) error
	// CopyVolume, VolumeCopy and CancelCopy are too; see directvolume.CopyRequest.
	CopyVolume(ctx context.Context, device, target string) (directvolume.CopyState, error)
	VolumeCopy(ctx context.Context, device string, id uint64) (directvolume.CopyState, error)
	CancelCopy(ctx context.Context, device string, id uint64) (directvolume.CopyState, error)
	Volumes(ctx context.Context) []directvolume.SandboxVolume
	// OpenConsole starts a program in the guest itself: ErrNoConsole, ErrCannotConsole, or what the agent said. It lasts
	// as long as the sandbox at most.
	OpenConsole(ctx context.Context, r console.Request) (Console, error)
	// IPTables and SetIPTables speak of the guest's packet filters, in the form of iptables-save. SetIPTables returns
	// what the guest's tool has said.
	IPTables(ctx context.Context, ipv6 bool) ([]byte, error)
	SetIPTables(ctx context.Context, ipv6 bool, rules []byte) ([]byte, error)
	// AgentURL is where the agent listens, for example vsock://3:1024.
	AgentURL() string
	Metrics(ctx context.Context) Metrics
}

// Server is a running management socket.
type Server struct {
	path   string
	end    context.CancelFunc // of all requests, and of what they have become
	http   *http.Server
	served chan struct{}
}

// Options are what a Server is made with.
type Options struct {
	// Pprof serves the shim's own profiles, as Kata's shim does with enable_pprof.
	Pprof bool
	Log   *slog.Logger
}

// Serve listens at path, mode 0600, and answers from backend until Close. The folder is there and private to root.
func Serve(path string, backend Backend, o Options) (*Server, error) {
	log := o.Log
	// A socket of a shim that died with the same id would be in the way; the caller holds the sandbox's lease.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("management socket: %w", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("management socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("management socket: %w", err), listener.Close())
	}
	life, end := context.WithCancel(context.Background())
	handler := http.NewServeMux()
	handler.Handle("/", http.TimeoutHandler(routes(backend, log), requestTimeout, "the sandbox did not answer in time\n"))
	if o.Pprof {
		profiles(handler)
	}
	handler.Handle(console.Path, newConsoles(backend, log))
	s := &Server{
		path:   path,
		end:    end,
		served: make(chan struct{}),
		http: &http.Server{
			Handler:           handler,
			BaseContext:       func(net.Listener) context.Context { return life },
			ReadHeaderTimeout: headerTimeout,
			ReadTimeout:       headerTimeout,
			WriteTimeout:      requestTimeout + headerTimeout,
			IdleTimeout:       idleTimeout,
			MaxHeaderBytes:    maxHeaderBytes,
			ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		},
	}
	go func() {
		defer close(s.served)
		if err := s.http.Serve(limit(listener, maxConns)); !errors.Is(err, http.ErrServerClosed) {
			log.Error("management socket has ended", "error", err)
		}
	}()
	return s, nil
}

// Close stops listening, ends what is being answered and removes the socket. Idempotent.
func (s *Server) Close(ctx context.Context) error {
	s.end()
	err := s.http.Close()
	select {
	case <-s.served:
	case <-ctx.Done():
		err = errors.Join(err, ctx.Err())
	}
	if removeErr := os.Remove(s.path); !errors.Is(removeErr, fs.ErrNotExist) {
		err = errors.Join(err, removeErr)
	}
	return err
}
