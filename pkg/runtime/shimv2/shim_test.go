package shimv2

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"
)

// This test binary is a shim too, when the environment says so: the tests run its commands as containerd would. The
// rest of the environment tells the shim's inner side what to do.
const (
	asShim     = "SHIMV2_TEST_AS_SHIM"
	notesIn    = "SHIMV2_TEST_NOTES"       // folder where calls of the inner side leave files
	serveFails = "SHIMV2_TEST_SERVE_FAILS" // the text of the error
	closeTakes = "SHIMV2_TEST_CLOSE_TAKES" // a duration
)

func TestMain(m *testing.M) {
	if os.Getenv(asShim) != "" {
		os.Exit(Main(os.Args, Config{
			Runtime:   "io.containerd.test.v2",
			SandboxOf: testSandboxOf,
			Serve:     serveTest,
			Cleanup:   testCleanup,
		}))
	}
	os.Exit(m.Run())
}

// testSandboxOf reads the sandbox's id from the bundle.
func testSandboxOf(bundle, id string) (string, error) {
	data, err := os.ReadFile(filepath.Join(bundle, "sandbox"))
	if errors.Is(err, os.ErrNotExist) {
		return id, nil
	}
	return string(data), err
}

func note(name, content string) {
	_ = os.WriteFile(filepath.Join(os.Getenv(notesIn), name), []byte(content), 0o600)
}

func testCleanup(_ context.Context, sandboxID string, log *slog.Logger) error {
	note("cleaned-"+sandboxID, "")
	log.Debug("cleaned up")
	return nil
}

// testService answers as much of the Task API as the frame needs to be tried.
type testService struct {
	taskapi.TTRPCTaskService
	d Daemon
}

func serveTest(_ context.Context, d Daemon) (Service, error) {
	if text := os.Getenv(serveFails); text != "" {
		return nil, errors.New(text)
	}
	return &testService{d: d}, nil
}

func (s *testService) Register(server *ttrpc.Server) { taskapi.RegisterTTRPCTaskService(server, s) }

func (s *testService) Interceptor() ttrpc.UnaryServerInterceptor {
	return func(ctx context.Context, u ttrpc.Unmarshaler, _ *ttrpc.UnaryServerInfo, call ttrpc.Method) (any, error) {
		return call(ctx, u)
	}
}

func (s *testService) Close(context.Context) error {
	if takes, err := time.ParseDuration(os.Getenv(closeTakes)); err == nil {
		time.Sleep(takes)
	}
	note("closed", "")
	s.d.Events.Publish("/tasks/exit", &events.TaskExit{ContainerID: s.d.ID})
	return nil
}

func (s *testService) Connect(context.Context, *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	return &taskapi.ConnectResponse{ShimPid: uint32(os.Getpid())}, nil
}

// Create mounts something, as a real one would, and publishes it.
func (s *testService) Create(_ context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	rootfs := filepath.Join(r.GetBundle(), "rootfs")
	if err := os.MkdirAll(rootfs, 0o700); err != nil {
		return nil, err
	}
	if err := unix.Mount("shimv2-test", rootfs, "tmpfs", 0, ""); err != nil {
		return nil, err
	}
	s.d.Events.Publish("/tasks/create", &events.TaskCreate{ContainerID: r.GetID()})
	s.d.Log.Info("created", "container", r.GetID())
	return &taskapi.CreateTaskResponse{}, nil
}

// Checkpoint crashes the process.
func (s *testService) Checkpoint(context.Context, *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error) {
	go panic("crashed on request")
	select {}
}

func (s *testService) Shutdown(context.Context, *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	s.d.Shutdown()
	return &emptypb.Empty{}, nil
}

func TestFlagsAreChecked(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no id":            {[]string{"-namespace", "n", "start"}, "-id is missing"},
		"no namespace":     {[]string{"-id", "a", "start"}, "-namespace is missing"},
		"a path for an id": {[]string{"-namespace", "n", "-id", "../a", "start"}, "../a"},
		"a huge id":        {[]string{"-namespace", "n", "-id", strings.Repeat("a", 129), "start"}, "is not one of containerd's"},
		"unknown command":  {[]string{"-namespace", "n", "-id", "a", "dance"}, "dance"},
		"unknown flag":     {[]string{"-no-such-flag"}, "no-such-flag"},
	} {
		out, err := command(t, t.TempDir(), c.args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), c.want) {
			t.Errorf("%s: %v with %q, want a failure that says %q", name, err, out, c.want)
		}
	}
}
