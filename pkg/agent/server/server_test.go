package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katadirect/katadirect/internal/filesystem"
	"github.com/katadirect/katadirect/pkg/agent/container"
	"github.com/katadirect/katadirect/pkg/agent/process"
	"github.com/katadirect/katadirect/pkg/agent/sandbox"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

// connect serves s, and returns a client of it.
func connect(t *testing.T, s *Service) agentproto.AgentServiceService {
	t.Helper()
	srv, err := New(s)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(context.Background(), listener) }()
	conn, err := net.Dial("unix", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	t.Cleanup(func() {
		client.Close()
		if err := srv.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return agentproto.NewAgentServiceClient(client)
}

func TestErrorsReachTheShimAsTheCodesItKnows(t *testing.T) {
	client := connect(t, &Service{Sandbox: sandbox.New(nil, nil, nil)})
	ctx := t.Context()
	for name, tc := range map[string]struct {
		call func() error
		want codes.Code
	}{
		"unknown container": {func() error {
			_, err := client.WaitProcess(ctx, &agentproto.WaitProcessRequest{ContainerId: "c1"})
			return err
		}, codes.InvalidArgument},
		"no sandbox": {func() error {
			_, err := client.CreateContainer(ctx, &agentproto.CreateContainerRequest{ContainerId: "c1"})
			return err
		}, codes.FailedPrecondition},
		"bad id": {func() error {
			_, err := client.CreateContainer(ctx, &agentproto.CreateContainerRequest{ContainerId: "../c1"})
			return err
		}, codes.InvalidArgument},
		"not implemented": {func() error {
			_, err := client.SetPolicy(ctx, &agentproto.SetPolicyRequest{})
			return err
		}, codes.Unimplemented},
	} {
		if err := tc.call(); status.Code(err) != tc.want {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
}

// A bug in one method must not end the machine, and with it the pod.
func TestAPanicIsAnErrorAndTheAgentGoesOn(t *testing.T) {
	client := connect(t, &Service{Sandbox: sandbox.New(nil, nil, nil)}) // without its parts
	for range 2 {
		_, err := client.ListInterfaces(t.Context(), &agentproto.ListInterfacesRequest{})
		if err != nil && status.Code(err) != codes.Internal {
			t.Errorf("%v", err)
		}
		_, err = client.GetVolumeStats(t.Context(), &agentproto.VolumeStatsRequest{VolumeGuestPath: "/x"})
		if status.Code(err) != codes.Internal {
			t.Errorf("%v, want INTERNAL", err)
		}
	}
}

func TestThatSomethingIsGoneIsNoErrorOfTheGuests(t *testing.T) {
	var log bytes.Buffer
	defer slog.SetDefault(slog.Default())
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	for name, call := range map[string]ttrpc.Method{
		"Remove": func(context.Context, func(any) error) (any, error) {
			return nil, fmt.Errorf("x: %w", sandbox.ErrNoContainer)
		},
		"Signal": func(context.Context, func(any) error) (any, error) {
			return nil, fmt.Errorf("x: %w", container.ErrNoProcess)
		},
		"Write": func(context.Context, func(any) error) (any, error) {
			return nil, fmt.Errorf("x: %w", process.ErrStdinClosed)
		},
		"Bad": func(context.Context, func(any) error) (any, error) { return nil, errors.New("bad") },
	} {
		if _, err := intercept(t.Context(), nil, &ttrpc.UnaryServerInfo{FullMethod: name}, call); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if said := log.String(); strings.Count(said, "\n") != 1 || !strings.Contains(said, "method=Bad") {
		t.Errorf("logged %q", said)
	}
}

func TestWrappedErrorsKeepTheirCodeAndText(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want codes.Code
	}{
		{fmt.Errorf("outer: %w", container.ErrNoProcess), codes.NotFound},
		{errors.Join(errors.New("x"), filesystem.ErrOccupied), codes.FailedPrecondition},
		{status.Error(codes.Unimplemented, "m"), codes.Unimplemented},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{errors.New("anything else"), codes.Internal},
	} {
		got := status.Convert(toStatus(tc.err))
		if got.Code() != tc.want {
			t.Errorf("%v: %v, want %v", tc.err, got.Code(), tc.want)
		}
		if _, already := status.FromError(tc.err); !already && got.Message() != tc.err.Error() {
			t.Errorf("%v lost its text: %q", tc.err, got.Message())
		}
	}
}

// What is left to agentproto.Unimplemented is a decision, and stands here.
func TestMethodsThatAreNotImplemented(t *testing.T) {
	want := map[string]bool{
		"MemAgentMemcgSet": true, "MemAgentCompactSet": true, "SetPolicy": true,
	}
	service := reflect.TypeFor[*Service]()
	all := reflect.TypeFor[agentproto.AgentServiceService]()
	for method := range all.Methods() {
		name := method.Name
		own, _ := service.MethodByName(name)
		// The embedded type's methods are wrapped by the compiler, in no file.
		file, _ := runtime.FuncForPC(own.Func.Pointer()).FileLine(own.Func.Pointer())
		promoted := file == "<autogenerated>"
		if promoted != want[name] {
			t.Errorf("%s: left unimplemented %v, want %v", name, promoted, want[name])
		}
	}
}
