package crio

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// awaitGone waits until the shim has ended, and its socket with it.
func (c *container) awaitGone() {
	c.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if _, err := c.task.Connect(c.Context(), &taskapi.ConnectRequest{ID: c.id}); errors.Is(err, ttrpc.ErrClosed) {
			return
		} else if time.Now().After(deadline) {
			c.Fatalf("the shim goes on after the last Shutdown: %v", err)
		}
	}
}

func TestAPodOfCRIOsFromCrictlsConfigs(t *testing.T) {
	e := newEngine(t)
	pod := e.create(e.podSpec(readConfig[cri.PodSandboxConfig](t, "pod.json"))).start()
	app := e.create(e.containerSpec(pod, readConfig[cri.ContainerConfig](t, "container.json"))).start()

	t.Run("the container runs in the pod's machine", func(t *testing.T) {
		app.awaitOutput(t.Context(), "hello from hello\n")
		host, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
		if err != nil {
			t.Fatal(err)
		}
		if app.must("cat", "/proc/sys/kernel/random/boot_id") == string(host) {
			t.Error("it runs on the host's kernel")
		}
		if got := app.must("sh", "-c", "echo $GREETING; cat /etc/resolv.conf"); got != "hello\nnameserver 192.0.2.53\n" {
			t.Errorf("in it: %q", got)
		}
		if a, b := pid(t, pod), pid(t, app); a != b || a == 0 {
			t.Errorf("the containers' processes are %d and %d, want the hypervisor's", a, b)
		}
	})
	t.Run("exec", func(t *testing.T) {
		if out, code := app.exec("sh", "-c", "echo out; echo err >&2; exit 7"); code != 7 || !strings.Contains(out, "out\n") || !strings.Contains(out, "err\n") {
			t.Errorf("ended with %d: %q", code, out)
		}
	})
	t.Run("exec with an input that ends", func(t *testing.T) {
		x := app.begin(true, false, "sh", "-c", "cat; exit 3")
		x.io.write(t, "through\n")
		x.closeInput()
		if out, code := x.end(); code != 3 || out != "through\n" {
			t.Errorf("ended with %d: %q", code, out)
		}
	})
	t.Run("exec on a terminal", func(t *testing.T) {
		x := app.begin(true, true, "sh", "-c", `read line; echo "got $line"; until [ "$(stty size)" = "41 77" ]; do sleep 0.1; done; stty size; exit 4`)
		x.resize(77, 41)
		x.io.write(t, "hello\n")
		if out, code := x.end(); code != 4 || !strings.Contains(out, "got hello\r\n41 77\r\n") {
			t.Errorf("ended with %d: %q", code, out)
		}
	})
	t.Run("figures", func(t *testing.T) {
		if m := figures(t, app); m.GetCPU().GetUsageUsec() == 0 || m.GetMemory().GetUsage() == 0 ||
			m.GetMemory().GetUsageLimit() != 64<<20 || m.GetPids().GetCurrent() == 0 {
			t.Errorf("%v", m)
		}
	})
	t.Run("an update", func(t *testing.T) {
		limit := int64(96 << 20)
		app.update(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}})
		if got := figures(t, app).GetMemory().GetUsageLimit(); got != uint64(limit) {
			t.Errorf("the limit of memory is %d", got)
		}
	})
	t.Run("pause and resume", func(t *testing.T) {
		for _, step := range []struct {
			call func() error
			want tasktypes.Status
		}{
			{func() error { _, err := app.task.Pause(t.Context(), &taskapi.PauseRequest{ID: app.id}); return err }, tasktypes.Status_PAUSED},
			{func() error { _, err := app.task.Resume(t.Context(), &taskapi.ResumeRequest{ID: app.id}); return err }, tasktypes.Status_RUNNING},
		} {
			if err := step.call(); err != nil {
				t.Fatal(err)
			}
			if got := state(t, app).GetStatus(); got != step.want {
				t.Errorf("the container is %v, want %v", got, step.want)
			}
		}
	})
	t.Run("CRI-O restarts", func(t *testing.T) {
		for _, c := range []*container{pod, app} {
			c.reconnect()
			s := state(t, c)
			if s.GetStatus() != tasktypes.Status_RUNNING || s.GetStdout() != c.io.stdout || s.GetStderr() != c.io.stderr || s.GetBundle() != c.bundle {
				t.Errorf("it finds %v", s)
			}
		}
		app.must("true")
	})
	t.Run("a container killed for want of memory leaves a mark", func(t *testing.T) {
		config := readConfig[cri.ContainerConfig](t, "container.json")
		config.Command = []string{"sh", "-c", "sleep 1; head -c 300000000 /dev/zero | tail -c 300000000"}
		config.Linux.Resources.MemoryLimitInBytes = 24 << 20
		c := e.create(e.containerSpec(pod, config)).start()
		if code := c.wait(""); code != 137 {
			t.Errorf("it ended with %d", code)
		}
		awaitFile(t, filepath.Join(c.bundle, "oom"))
		c.remove()
		if state(t, app).GetStatus() != tasktypes.Status_RUNNING {
			t.Error("the other container is gone, too")
		}
		if _, err := os.Stat(filepath.Join(app.bundle, "oom")); err == nil {
			t.Error("the other container has the mark, too")
		}
	})
	t.Run("all of it ends in order", func(t *testing.T) {
		app.stop(time.Minute)
		if s := state(t, app); s.GetStatus() != tasktypes.Status_STOPPED || s.GetExitStatus() != 0 {
			t.Errorf("the container is %v", s)
		}
		app.remove()
		pod.stop(time.Minute)
		pod.remove()
		pod.awaitGone()
	})
}

func TestAVolumeInAPodOfCRIOs(t *testing.T) {
	e := newEngine(t)
	config := readConfig[cri.PodSandboxConfig](t, "pod.json")
	uid := config.GetMetadata().GetUid()
	v := e.node.Volume("pvc-"+uid, 1<<30, "ext4")
	for _, step := range []func(context.Context) error{
		v.Create, v.Stage, func(ctx context.Context) error { return v.Publish(ctx, uid) },
	} {
		if err := step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	pod := e.create(e.podSpec(config)).start()
	database := readConfig[cri.ContainerConfig](t, "volume-container.json")
	if !strings.Contains(database.Mounts[0].HostPath, "/pods/"+uid+"/") {
		t.Errorf("the walk-through's container mounts %s, which is not of its pod", database.Mounts[0].HostPath)
	}
	database.Mounts[0].HostPath = v.TargetPath(uid)
	app := e.create(e.containerSpec(pod, database)).start()
	app.awaitOutput(t.Context(), "/dev/vd")
	app.must("sh", "-c", "echo kept >/data/file; sync")
	before, err := v.Stats(t.Context(), uid)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Expand(t.Context(), uid, 2<<30); err != nil {
		t.Fatal(err)
	}
	after, err := v.Stats(t.Context(), uid)
	if err != nil || after.Total <= before.Total {
		t.Errorf("expanded from %v to %v, %v", before, after, err)
	}
	for _, c := range []*container{app, pod} {
		c.stop(time.Minute)
		c.remove()
	}
	pod.awaitGone()
	for _, step := range []func(context.Context) error{
		func(ctx context.Context) error { return v.Unpublish(ctx, uid) }, v.Unstage, v.Delete,
	} {
		if err := step(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestWhatCannotBeMadeIsAnErrorForCRIO(t *testing.T) {
	e := newEngine(t)
	pod := e.create(e.podSpec(readConfig[cri.PodSandboxConfig](t, "pod.json"))).start()
	config := readConfig[cri.ContainerConfig](t, "container.json")
	config.Command = []string{"/no/such/program"}
	spec := e.containerSpec(pod, config)
	if _, err := e.tryCreate(spec); err == nil || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("a program that is not there: %v", err)
	}
	spec.Annotations[annotationSandboxID] = newID()
	spec.Annotations[annotationContainerID] = newID()
	if _, err := e.tryCreate(spec); err == nil || !strings.Contains(err.Error(), "is not running") {
		t.Errorf("a container of a pod that is not there: %v", err)
	}
	pod.stop(time.Minute)
	pod.remove()
	pod.awaitGone()
}

// CRI-O notices the shim's death by the closed connection. It never calls the delete command, so nothing may be left
// running by itself.
func TestAKilledShimTakesItsMachineAlong(t *testing.T) {
	e := newEngine(t)
	pod := e.create(e.podSpec(readConfig[cri.PodSandboxConfig](t, "pod.json"))).start()
	connected, err := pod.task.Connect(t.Context(), &taskapi.ConnectRequest{ID: pod.id})
	if err != nil {
		t.Fatal(err)
	}
	e.inLab(fmt.Sprintf("kill -9 %d", connected.GetShimPid()))
	if _, err := pod.task.Wait(t.Context(), &taskapi.WaitRequest{ID: pod.id}); !errors.Is(err, ttrpc.ErrClosed) {
		t.Errorf("the wait ended with %v", err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		out, err := e.tryInLab("ps -e -o args | grep '[q]emu-system.*" + pod.id + "'")
		if err != nil && out == "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the machine outlives its shim: %s", out)
		}
	}
	// What a person would do, or the next boot does by itself: /run is gone then.
	e.inLab(fmt.Sprintf("cd %s; %s -namespace default -address '' -publish-binary /usr/bin/crio -id %s -bundle %s delete >/dev/null",
		pod.bundle, e.runtimePath, pod.id, pod.bundle))
	pod.io.close()
}

func state(t *testing.T, c *container) *taskapi.StateResponse {
	t.Helper()
	s, err := c.task.State(t.Context(), &taskapi.StateRequest{ID: c.id})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func figures(t *testing.T, c *container) *stats.Metrics {
	t.Helper()
	r, err := c.task.Stats(t.Context(), &taskapi.StatsRequest{ID: c.id})
	if err != nil {
		t.Fatal(err)
	}
	// CRI-O decodes either cgroup version's message by this name.
	if r.GetStats().GetTypeUrl() != "io.containerd.cgroups.v2.Metrics" {
		t.Errorf("their type is %s", r.GetStats().GetTypeUrl())
	}
	m := new(stats.Metrics)
	if err := proto.Unmarshal(r.GetStats().GetValue(), m); err != nil {
		t.Fatal(err)
	}
	return m
}

func pid(t *testing.T, c *container) uint32 { t.Helper(); return state(t, c).GetPid() }

func awaitFile(t *testing.T, path string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return
		} else if !errors.Is(err, syscall.ENOENT) || time.Now().After(deadline) {
			t.Error(err)
			return
		}
	}
}
