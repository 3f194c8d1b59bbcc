package main

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

const program = "containerd-shim-katadirect-v2"

// build makes the shim as it is installed.
func build(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), program)
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return path
}

func TestRuntimeNameFollowsTheProgramsName(t *testing.T) {
	t.Parallel()
	for program, want := range map[string]string{
		"/usr/local/bin/containerd-shim-katadirect-v2": "io.containerd.katadirect.v2",
		"containerd-shim-kata-v2":                      "io.containerd.kata.v2",
	} {
		if got := runtimeName(program); got != want {
			t.Errorf("%s: %s, want %s", program, got, want)
		}
	}
}

func TestTheShimSaysWhatItIs(t *testing.T) {
	t.Parallel()
	shim := build(t)
	out, err := exec.CommandContext(t.Context(), shim, "--version").Output()
	if err != nil || !strings.HasPrefix(string(out), program+" ") {
		t.Errorf("--version: %q, %v", out, err)
	}
	out, err = exec.CommandContext(t.Context(), shim, "-info").Output()
	if err != nil {
		t.Fatal(err)
	}
	var info types.RuntimeInfo
	if err := proto.Unmarshal(out, &info); err != nil || info.GetName() != "io.containerd.katadirect.v2" {
		t.Errorf("-info: %v, %v", &info, err)
	}
}

func TestAPodThatCannotBeMadeIsAnErrorForContainerdAndLeavesNothing(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root: a shim makes itself a mount namespace")
	}
	bundle := t.TempDir()
	spec := `{"process": {"args": ["true"]}, "root": {"path": "rootfs"}}`
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(spec), 0o600); err != nil {
		t.Fatal(err)
	}
	start := exec.CommandContext(t.Context(), build(t),
		"-namespace", "test", "-address", filepath.Join(bundle, "containerd.sock"), "-id", "c1", "start")
	start.Dir = bundle
	address, err := start.CombinedOutput()
	if err != nil {
		t.Fatalf("start: %v: %s", err, address)
	}
	socket := strings.TrimPrefix(string(address), "unix://")
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	client := taskapi.NewTTRPCTaskClient(ttrpc.NewClient(conn))
	defer conn.Close()
	// A client that asks to connect to a container which never was is told so; the shim's own file names the process.
	raw, err := os.ReadFile(filepath.Join(bundle, "shim.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	defer func() { _ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0) }()

	missing := filepath.Join(bundle, "configuration.toml")
	options, err := proto.Marshal(&runtimeoptions.Options{ConfigPath: missing})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.Create(t.Context(), &taskapi.CreateTaskRequest{
		ID: "c1", Bundle: bundle, Options: &anypb.Any{TypeUrl: "runtimeoptions.v1.Options", Value: options},
	})
	if err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("create: %v, want an error that names the configuration file", err)
	}
	// The shim gives its last answer a second to leave, which a busy machine may need for something else.
	if _, err := client.Shutdown(t.Context(), &taskapi.ShutdownRequest{ID: "c1"}); err != nil && !errors.Is(err, ttrpc.ErrClosed) {
		t.Fatal(err)
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 20_000)
		if n > 0 {
			break
		}
		if err != unix.EINTR {
			t.Fatal("the shim did not end")
		}
	}
	if _, err := os.Stat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket: %v, want it gone", err)
	}
}
