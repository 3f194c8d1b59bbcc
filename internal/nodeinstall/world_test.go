package nodeinstall_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"
	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/katadirect/katadirect/internal/nodeinstall"
)

// world is a host's root in a folder, with a stand-in for its container runtime: one that reads its configuration when
// it is restarted, as containerd does, and fails on request. Real containerds are in test/node.
type world struct {
	dir, host, payload string
	runtime            *standIn
}

const (
	config2  = "# the cluster's\nversion = 2\n[debug]\n  level = \"info\"\n"
	config3  = "# the cluster's\nversion = 3\n[debug]\n  level = \"info\"\n"
	mainFile = "etc/containerd/config.toml"
	socket   = "run/containerd/containerd.sock"
)

func newWorld(t *testing.T, config string) *world {
	t.Helper()
	// In memory, where thousands of fsyncs cost nothing; and not t.TempDir(), because sockets have short paths.
	dir, err := os.MkdirTemp("/dev/shm", "node")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &world{dir: dir, host: filepath.Join(dir, "host"), payload: filepath.Join(dir, "payload")}
	program, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, "host/usr/bin/qemu-system-x86_64", "#!", 0o755)
	w.write(t, "host/usr/lib/qemu/virtiofsd", "#!", 0o755)
	w.write(t, "host/usr/local/bin/other", "#!", 0o755)
	if config != "" {
		w.write(t, "host/"+mainFile, config, 0o644)
	}
	w.write(t, "payload/containerd-shim-katadirect-v2", string(program), 0o755)
	w.write(t, "payload/katadirect", "tool", 0o755)
	for _, name := range []string{"vmlinux", "initrd", "image.json"} {
		w.write(t, "payload/guest/"+name, name, 0o644)
	}
	w.runtime = newStandIn(t, w.host)
	return w
}

func (w *world) write(t *testing.T, name, text string, mode os.FileMode) {
	t.Helper()
	place := filepath.Join(w.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(place), 0o755), os.WriteFile(place, []byte(text), mode)); err != nil {
		t.Fatal(err)
	}
}

func (w *world) read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(w.host, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (w *world) options() nodeinstall.Options {
	return nodeinstall.Options{
		HostRoot: w.host, BinDir: w.payload, GuestDir: filepath.Join(w.payload, "guest"), Version: "v1",
		ProcDir: "/proc", WaitTimeout: time.Minute, Restart: request{w.host},
	}
}

func (w *world) install(t *testing.T, change ...func(*nodeinstall.Options)) (nodeinstall.Report, error) {
	t.Helper()
	o := w.options()
	for _, c := range change {
		c(&o)
	}
	return nodeinstall.Install(t.Context(), o)
}

func (w *world) mustInstall(t *testing.T, change ...func(*nodeinstall.Options)) nodeinstall.Report {
	t.Helper()
	r, err := w.install(t, change...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// tree is all that there is on the host: modes, contents and links by path.
func (w *world) tree(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(w.host, func(place string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		name, what := strings.TrimPrefix(place, w.host), info.Mode().String()
		switch {
		case name == "/"+socket || name == "/"+counter || strings.HasPrefix(name, "/run/katadirect"):
			return nil
		case w.runtime.made != nil && name == w.runtime.config:
			return nil // the runtime's own work
		case info.Mode().IsRegular():
			text, err := os.ReadFile(place)
			if err != nil {
				return err
			}
			what += " " + string(text)
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(place)
			if err != nil {
				return err
			}
			what += " to " + target
		}
		out[name] = what
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// isAsBefore compares the host with what it was, but for the folders of the configuration, which may be there now.
func (w *world) isAsBefore(t *testing.T, before map[string]string) {
	t.Helper()
	after := w.tree(t)
	maps.DeleteFunc(after, func(name, what string) bool {
		_, was := before[name]
		return !was && strings.HasPrefix(what, "d") && !strings.Contains(name, "katadirect")
	})
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("the host is not as it was (-before +after):\n%s", diff)
	}
}

// counter is a file that is counted up by each request for a restart.
const counter = "run/restarts"

// request asks the stand-in to restart. It goes through a file, so that a process that is killed can ask too.
type request struct{ host string }

func (r request) String() string { return "a request" }

func (r request) Restart(context.Context) error {
	place := filepath.Join(r.host, counter)
	text, _ := os.ReadFile(place)
	n, _ := strconv.Atoi(string(text))
	return os.WriteFile(place, []byte(strconv.Itoa(n+1)), 0o644)
}

type standIn struct {
	cri.UnimplementedRuntimeServiceServer
	host string

	mu       sync.Mutex
	seen     string // the counter when the configuration was last read
	handlers map[string]string
	version  string
	// config is its configuration; made, if not nil, makes that anew at each start. silent leaves the handlers unsaid.
	config string
	made   func() string
	silent bool
	// breaks makes it stay down with a configuration that has this in it.
	breaks string
	down   bool
}

func newStandIn(t *testing.T, host string) *standIn {
	t.Helper()
	place := filepath.Join(host, socket)
	if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", place)
	if err != nil {
		t.Fatal(err)
	}
	s := &standIn{host: host, version: "v2.2.9", config: "/" + mainFile}
	s.load()
	server := grpc.NewServer()
	cri.RegisterRuntimeServiceServer(server, s)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return s
}

// load reads the configuration as containerd does: the file, then what it imports.
func (s *standIn) load() {
	s.handlers, s.down = map[string]string{"runc": ""}, false
	if s.made != nil {
		if err := os.WriteFile(filepath.Join(s.host, s.config), []byte(s.made()), 0o600); err != nil {
			panic(err)
		}
	}
	pending := []string{s.config}
	for len(pending) > 0 {
		name := pending[0]
		pending = pending[1:]
		text, err := os.ReadFile(filepath.Join(s.host, name))
		if err != nil {
			s.down = s.down || name != s.config
			continue
		}
		var settings struct {
			Imports []string `toml:"imports"`
			Plugins map[string]struct {
				Containerd struct {
					Runtimes map[string]struct {
						Path string `toml:"runtime_path"`
					}
				}
			} `toml:"plugins"`
		}
		if toml.Unmarshal(text, &settings) != nil || s.breaks != "" && strings.Contains(string(text), s.breaks) {
			s.down = true
		}
		for _, plugin := range settings.Plugins {
			for handler, runtime := range plugin.Containerd.Runtimes {
				s.handlers[handler] = runtime.Path
			}
		}
		for _, pattern := range settings.Imports {
			files, _ := filepath.Glob(filepath.Join(s.host, pattern))
			for _, f := range files {
				pending = append(pending, strings.TrimPrefix(f, s.host))
			}
		}
	}
}

// answer restarts first if that was asked for, and fails while it is down.
func (s *standIn) answer() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if text, _ := os.ReadFile(filepath.Join(s.host, counter)); string(text) != s.seen {
		s.seen = string(text)
		s.load()
	}
	if s.down {
		return errors.New("it does not start with this configuration")
	}
	return nil
}

func (s *standIn) restarts() int {
	text, _ := os.ReadFile(filepath.Join(s.host, counter))
	n, _ := strconv.Atoi(string(text))
	return n
}

func (s *standIn) has(handler string) bool {
	_ = s.answer()
	s.mu.Lock()
	defer s.mu.Unlock()
	_, has := s.handlers[handler]
	return has
}

func (s *standIn) Version(context.Context, *cri.VersionRequest) (*cri.VersionResponse, error) {
	return &cri.VersionResponse{RuntimeName: "containerd", RuntimeVersion: s.version}, s.answer()
}

func (s *standIn) Status(context.Context, *cri.StatusRequest) (*cri.StatusResponse, error) {
	if err := s.answer(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	ready := &cri.RuntimeStatus{Conditions: []*cri.RuntimeCondition{{Type: cri.RuntimeReady, Status: true}}}
	if s.silent {
		return &cri.StatusResponse{Status: ready}, nil
	}
	runtimes := map[string]any{}
	for name, shim := range s.handlers {
		runtimes[name] = map[string]any{"runtimeType": "x", "runtimePath": shim}
	}
	config, err := json.Marshal(map[string]any{"containerd": map[string]any{"runtimes": runtimes}})
	if err != nil {
		return nil, fmt.Errorf("stand-in: %w", err)
	}
	return &cri.StatusResponse{
		Status: ready,
		Info:   map[string]string{"config": string(config)},
	}, nil
}
