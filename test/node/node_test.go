// Package node tries "katadirect node" on the real thing: containerd of each kind, which reads the configuration that
// the installer has changed, and pods in machines by the handler that it has added.
package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/internal/nodeinstall"
	"github.com/katadirect/katadirect/test/artifacts"
)

func TestMain(m *testing.M) { artifacts.Main(m) }

const handler = "katadirect"

// Exit statuses of katadirect, which scripts rely on.
const (
	exitAbsent  = 3
	exitInUse   = 4
	exitRefused = 8
	exitBack    = 9
)

// host is a lab as the host that is installed on. Its containerd knows only runc, and finds no shim of ours.
type host struct {
	*lab.Lab
	t        *testing.T
	guest    string
	restarts atomic.Int32
	// failing restarts are refused, as systemd would.
	failing atomic.Int32
}

func newHost(t *testing.T, flavour lab.Flavour) *host {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	l, err := lab.Open(ctx, lab.Options{Containerd: flavour})
	if err != nil {
		t.Fatal(err)
	}
	h := &host{Lab: l, t: t, guest: artifacts.Image.Dir}
	t.Cleanup(h.close)
	// The way in which the installer restarts containerd: a command, which asks this test.
	listener, err := net.Listen("unix", h.restartSocket())
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Close() })
	settings := h.path("settings")
	must(t, os.MkdirAll(settings, 0o755))
	must(t, os.WriteFile(filepath.Join(settings, "10-memory.toml"), []byte("[hypervisor.qemu]\ndefault_memory = 256\n"), 0o644))
	return h
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func (h *host) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	pods, err := h.Pods(ctx)
	for _, p := range pods {
		err = errors.Join(err, p.Remove(ctx))
	}
	words := h.Containerd().LastWords()
	left, closeErr := h.Close(ctx)
	if err := errors.Join(err, closeErr); err != nil {
		h.t.Error(err)
	}
	if len(left) > 0 {
		h.t.Errorf("left over:\n%s", strings.Join(left, "\n"))
	}
	if h.t.Failed() {
		h.t.Logf("containerd's last words:\n%s", words)
	}
}

func (h *host) path(name string) string { return filepath.Join(h.Dir, name) }
func (h *host) config() string          { return h.path("containerd.toml") }
func (h *host) restartSocket() string   { return h.path("restart.sock") }

// ServeHTTP restarts containerd.
func (h *host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.restarts.Add(1)
	if h.failing.Add(-1) >= 0 {
		http.Error(w, "job failed", http.StatusInternalServerError)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), time.Minute)
	defer cancel()
	if err := errors.Join(h.Containerd().Stop(ctx), h.StartContainerd(ctx)); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// answer is what a run of katadirect gave.
type answer struct {
	status         int
	report         nodeinstall.Report
	stdout, stderr string
}

func (h *host) run(command string, more ...string) answer {
	h.t.Helper()
	program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", h.Containerd().PID()))
	must(h.t, err)
	args := append([]string{
		"node", command, "--host-root", "/", "--prefix", h.path("opt"), "--settings", h.path("settings"), "--tool-link", "none",
		"--runtime", "containerd", "--runtime-config", h.config(), "--runtime-drop-in", h.path("conf.d/50-katadirect.toml"),
		"--runtime-socket", h.path("containerd.sock"), "--containerd-program", program, "--output", "json",
		"--restart-command", "curl --fail --silent --show-error --unix-socket " + h.restartSocket() + " http://node/restart",
	}, more...)
	if command == "install" {
		args = append(args, "--guest", h.guest)
	}
	cmd := exec.Command(filepath.Join(artifacts.BinDir, "katadirect"), args...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	_ = cmd.Run() // its status says it
	a := answer{status: cmd.ProcessState.ExitCode(), stdout: out.String(), stderr: said.String()}
	if command != "status" && out.Len() > 0 {
		must(h.t, json.Unmarshal(out.Bytes(), &a.report))
	}
	return a
}

func (h *host) mustRun(command string, more ...string) answer {
	h.t.Helper()
	a := h.run(command, more...)
	if a.status != 0 {
		h.t.Fatalf("%s: status %d\n%s\n%s", command, a.status, a.stdout, a.stderr)
	}
	return a
}

// handlers are the runtime handlers that containerd says it has.
func (h *host) handlers() []string {
	h.t.Helper()
	status, err := h.CRI().Status(h.t.Context(), &cri.StatusRequest{Verbose: true})
	must(h.t, err)
	var config struct {
		Containerd struct{ Runtimes map[string]any }
	}
	must(h.t, json.Unmarshal([]byte(status.GetInfo()["config"]), &config))
	var names []string
	for name := range config.Containerd.Runtimes {
		names = append(names, name)
	}
	for _, listed := range status.GetRuntimeHandlers() {
		if name := listed.GetName(); name != "" && !slices.Contains(names, name) {
			h.t.Errorf("the interface lists %q, the configuration has %q", name, names)
		}
	}
	return names
}

// runPod runs a pod by the handler, and returns what its container says of the kernel.
func (h *host) runPod(name string) (*lab.Pod, *lab.Container, string) {
	h.t.Helper()
	pod, err := h.RunPod(h.t.Context(), lab.PodSpec{Name: name, Handler: handler})
	must(h.t, err)
	c, err := pod.Run(h.t.Context(), lab.ContainerSpec{
		Name: "c", Command: []string{"sh", "-c", `trap "exit 0" TERM; while :; do sleep 1 & wait; done`},
	})
	must(h.t, err)
	kernel, err := c.Exec(h.t.Context(), "uname", "-r")
	must(h.t, err)
	return pod, c, strings.TrimSpace(kernel)
}

func eachContainerd(t *testing.T, test func(*testing.T, *host)) {
	for _, flavour := range lab.Flavours {
		t.Run("containerd "+string(flavour), func(t *testing.T) { test(t, newHost(t, flavour)) })
	}
}

func read(t *testing.T, place string) string {
	t.Helper()
	text, err := os.ReadFile(place)
	must(t, err)
	return string(text)
}

func TestPodsRunByTheHandlerThatWasInstalledUntilItIsTakenBack(t *testing.T) {
	eachContainerd(t, func(t *testing.T, h *host) {
		before := read(t, h.config())
		if a := h.run("status"); a.status != exitAbsent {
			t.Errorf("before: status %d\n%s%s", a.status, a.stdout, a.stderr)
		}
		if a := h.mustRun("install", "--dry-run"); len(a.report.Changes) == 0 || read(t, h.config()) != before {
			t.Errorf("dry run: %s", a.stdout)
		}
		installed := h.mustRun("install")
		if len(installed.report.Warnings) > 0 {
			t.Errorf("warnings %q: the configuration must have been tried out", installed.report.Warnings)
		}
		if !slices.Contains(h.handlers(), handler) || h.restarts.Load() != 1 {
			t.Fatalf("handlers %q after %d restarts", h.handlers(), h.restarts.Load())
		}
		h.mustRun("status")
		old, oldContainer, kernel := h.runPod("old")
		if kernel != artifacts.Image.Manifest.Kernel {
			t.Errorf("the pod runs on kernel %q, the guest has %q", kernel, artifacts.Image.Manifest.Kernel)
		}
		if a := h.mustRun("install"); len(a.report.Changes) > 0 || h.restarts.Load() != 1 {
			t.Errorf("a second install changed %s", a.stdout)
		}

		// An upgrade under the running pod.
		h.guest = newerGuest(t, h)
		newer := h.mustRun("install")
		if newer.report.Version == installed.report.Version || h.restarts.Load() != 1 {
			t.Errorf("version %s after %s, %d restarts", newer.report.Version, installed.report.Version, h.restarts.Load())
		}
		if _, err := oldContainer.Exec(t.Context(), "true"); err != nil {
			t.Errorf("the pod of the old version: %v", err)
		}
		young, _, _ := h.runPod("new")
		machines, err := h.Find("qemu-system", newer.report.Version+"/guest/vmlinux")
		if err != nil || len(machines) != 1 {
			t.Errorf("machines of the new version: %v, %v", machines, err)
		}

		if a := h.run("uninstall"); a.status != exitInUse || !slices.Contains(h.handlers(), handler) {
			t.Errorf("uninstall under pods: status %d, %s", a.status, a.stderr)
		}
		must(t, young.Remove(t.Context()))
		left := h.run("uninstall", "--leave-in-use")
		if left.status != exitInUse || len(left.report.Left) != 2 {
			t.Errorf("status %d, left %+v: the pod's version and the current one must stay", left.status, left.report.Left)
		}
		if _, err := oldContainer.Exec(t.Context(), "true"); err != nil {
			t.Errorf("the pod that was left: %v", err)
		}
		must(t, old.Remove(t.Context()))
		last := h.run("uninstall")
		for deadline := time.Now().Add(time.Minute); last.status == exitInUse && time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
			last = h.run("uninstall") // the pod's shim may be leaving still
		}
		if last.status != 0 {
			t.Fatalf("uninstall: status %d\n%s\n%s", last.status, last.stdout, last.stderr)
		}
		if slices.Contains(h.handlers(), handler) || read(t, h.config()) != before {
			t.Errorf("handlers %q, configuration:\n%s", h.handlers(), read(t, h.config()))
		}
		if _, err := os.Stat(h.path("opt")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("files stay: %v", err)
		}
		if a := h.run("status", "--expect", "absent"); a.status != 0 {
			t.Errorf("after: status %d\n%s", a.status, a.stdout)
		}
	})
}

// newerGuest is the guest with another manifest.
func newerGuest(t *testing.T, h *host) string {
	t.Helper()
	dir := h.path("newer")
	must(t, os.MkdirAll(dir, 0o755))
	for _, name := range []string{"vmlinux", "initrd"} {
		must(t, os.Symlink(filepath.Join(artifacts.Image.Dir, name), filepath.Join(dir, name)))
	}
	must(t, os.WriteFile(filepath.Join(dir, "image.json"), []byte(read(t, filepath.Join(artifacts.Image.Dir, "image.json"))+"\n"), 0o644))
	return dir
}

func TestContainerdThatIsNotRestartedGetsItsConfigurationBack(t *testing.T) {
	eachContainerd(t, func(t *testing.T, h *host) {
		before := read(t, h.config())
		h.failing.Store(1)
		a := h.run("install")
		if a.status != exitBack || !strings.Contains(a.stderr, "taken back") {
			t.Errorf("status %d: %s", a.status, a.stderr)
		}
		if read(t, h.config()) != before || slices.Contains(h.handlers(), handler) {
			t.Errorf("handlers %q, configuration:\n%s", h.handlers(), read(t, h.config()))
		}
		h.mustRun("install")
		if !slices.Contains(h.handlers(), handler) {
			t.Errorf("handlers %q", h.handlers())
		}
		h.mustRun("uninstall")
	})
}

// A containerd 1.6 that reads a configuration of version 3 stands for every configuration that looks right and is not.
func TestAConfigurationThatContainerdDoesNotTakeIsNotPutInPlace(t *testing.T) {
	h := newHost(t, lab.V2)
	before := read(t, h.config())
	old := newHost(t, lab.Debian)
	program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", old.Containerd().PID()))
	must(t, err)
	a := h.run("install", "--containerd-program", program)
	if a.status != exitRefused || !strings.Contains(a.stderr, "version") {
		t.Errorf("status %d: %s", a.status, a.stderr)
	}
	if read(t, h.config()) != before || h.restarts.Load() != 0 {
		t.Errorf("%d restarts, configuration:\n%s", h.restarts.Load(), read(t, h.config()))
	}
	entries, err := os.ReadDir(h.Dir)
	must(t, err)
	for _, e := range entries {
		if strings.Contains(e.Name(), "trial") {
			t.Errorf("%s stays", e.Name())
		}
	}
}
