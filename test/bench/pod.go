package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
)

// workload is a node, a pod on it with one container, and what the floor needs to know of that container.
type workload struct {
	node   *kubelet.Node
	pod    *lab.Pod
	app    *lab.Container
	spec   *specs.Spec
	rootfs string // a copy
}

const idleScript = "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"

func idleContainer(name string) lab.ContainerSpec {
	return lab.ContainerSpec{Name: name, Command: []string{"sh", "-c", idleScript}}
}

// startWorkload opens a node and runs a pod in it.
func startWorkload(ctx context.Context, e *env) (_ *workload, err error) {
	w := &workload{}
	if w.node, err = kubelet.Open(ctx, kubelet.Options{BinDir: e.binDir, Image: e.image}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.stop(ctx))
		}
	}()
	if w.pod, err = w.node.Lab.RunPod(ctx, lab.PodSpec{Name: "bench", Handler: kubelet.Handler}); err != nil {
		return nil, err
	}
	if w.app, err = w.pod.Run(ctx, idleContainer("app")); err != nil {
		return nil, err
	}
	bundle := w.bundle(w.app.ID)
	data, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, err
	}
	w.spec = &specs.Spec{}
	if err := json.Unmarshal(data, w.spec); err != nil {
		return nil, err
	}
	// The shim has the root file system mounted where only it sees it.
	pid, err := shimOf(w.pod.ID)
	if err != nil {
		return nil, err
	}
	w.rootfs = filepath.Join("/proc", strconv.Itoa(pid), "root", bundle, "rootfs")
	return w, nil
}

// bundle is containerd's folder for a container.
func (w *workload) bundle(id string) string {
	return filepath.Join(w.node.Lab.Dir, "state", "io.containerd.runtime.v2.task", "k8s.io", id)
}

func (w *workload) stop(ctx context.Context) error { return closeNode(ctx, w.node) }

// measurePod times a pod's start, and that of one more container in it.
func measurePod(ctx context.Context, e *env, runs int) (_ []Figure, err error) {
	w, err := startWorkload(ctx, e)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.stop(ctx)) }()
	var pod, second samples
	for i := range runs {
		value, next, err := timePod(ctx, w.node, i)
		if err != nil {
			return nil, err
		}
		floor, nextFloor, err := timeCrun(ctx, e, w)
		if err != nil {
			return nil, err
		}
		pod.add(milliseconds(value), milliseconds(floor))
		second.add(milliseconds(next), milliseconds(nextFloor))
	}
	return []Figure{
		pod.figure("pod", "RunPodSandbox to the first container running; floor: file share and bare QEMU to the bare "+
			"guest's first answer, and crun's own create and start of that container in it", "ms", ratioAtMost(1.2), e.accel),
		second.figure("container", "CreateContainer to running, of the second container of a pod; floor: crun's own create "+
			"and start of it", "ms", ratioAtMost(1.3), e.accel),
	}, nil
}

func timePod(ctx context.Context, node *kubelet.Node, i int) (first, second time.Duration, err error) {
	start := time.Now()
	pod, err := node.Lab.RunPod(ctx, lab.PodSpec{Name: fmt.Sprintf("pod%d", i), Handler: kubelet.Handler})
	if err != nil {
		return 0, 0, err
	}
	if _, err := pod.Run(ctx, idleContainer("one")); err != nil {
		return 0, 0, err
	}
	first = time.Since(start)
	start = time.Now()
	if _, err := pod.Run(ctx, idleContainer("two")); err != nil {
		return 0, 0, err
	}
	second = time.Since(start)
	return first, second, pod.Remove(ctx)
}

func timeCrun(ctx context.Context, e *env, w *workload) (first, second time.Duration, err error) {
	m, err := startCrun(ctx, e, w.rootfs)
	if err != nil {
		return 0, 0, err
	}
	defer m.stop()
	one, err := m.create("one", w.spec)
	if err != nil {
		return 0, 0, err
	}
	two, err := m.create("two", w.spec)
	return m.booted + one, two, err
}

// measureExec times a process in a running container.
func measureExec(ctx context.Context, e *env, runs int) (_ []Figure, err error) {
	w, err := startWorkload(ctx, e)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.stop(ctx)) }()
	m, err := startCrun(ctx, e, w.rootfs)
	if err != nil {
		return nil, err
	}
	defer m.stop()
	if _, err := m.create("app", w.spec); err != nil {
		return nil, err
	}
	process := *forCrun(w.spec, "app").Process
	process.Args = []string{"true"}
	if err := m.put("process.json", process); err != nil {
		return nil, err
	}
	var s samples
	for i := range runs + warmUps {
		floor, err := m.exec("app")
		if err != nil {
			return nil, err
		}
		start := time.Now()
		if _, err := w.app.Exec(ctx, "true"); err != nil {
			return nil, err
		}
		if value := time.Since(start); i >= warmUps {
			s.add(milliseconds(value), milliseconds(floor))
		}
	}
	return []Figure{s.figure("exec", "ExecSync of true in a running container; floor: crun exec of it",
		"ms", ratioAtMost(1.3), e.accel)}, nil
}

// warmUps are not counted: what a guest does for the first time costs more in emulation.
const warmUps = 2

// streamBytes is how much output is timed.
const streamBytes = 64 << 20

// measureStdout times what a container writes, from the first byte that a reader of containerd's fifo sees to the last.
func measureStdout(ctx context.Context, e *env, runs int) (_ []Figure, err error) {
	w, err := startWorkload(ctx, e)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.stop(ctx)) }()
	m, err := startCrun(ctx, e, w.rootfs)
	if err != nil {
		return nil, err
	}
	defer m.stop()
	var s, piped, copies, most, filled samples
	for i := range runs {
		floor, err := m.stream(ctx, "stream", streamBytes)
		if err != nil {
			return nil, err
		}
		copied, err := m.stream(ctx, "pipe", streamBytes)
		if err != nil {
			return nil, err
		}
		spliced, err := m.stream(ctx, "splice", streamBytes)
		if err != nil {
			return nil, err
		}
		fill, err := m.fillPipe(streamBytes)
		if err != nil {
			return nil, err
		}
		value, err := w.stdout(ctx, fmt.Sprintf("stream%d", i))
		if err != nil {
			return nil, err
		}
		s.add(value, floor)
		piped.add(value, copied)
		copies.add(copied, floor)
		most.add(max(copied, spliced), floor)
		filled.add(fill, floor)
	}
	const what = "standard output of a container's process, to who reads the shim's fifo; floor: that process's in the bare guest, "
	return []Figure{
		s.figure("stdout", what+"a port of the same kind", "MB/s", ratioAtLeast(0.8), e.accel),
		piped.figure("stdout-piped", what+"a pipe, which is all that a container can be given, from which its init copies to "+
			"such a port", "MB/s", noTarget(), e.accel),
		copies.figure("stdout-copied", "that pipe in the bare guest, by copying: the most that can be done with a container's output; "+
			"floor: the port without it", "MB/s", noTarget(), e.accel),
		most.figure("stdout-most", "the same, by copying or by moving pages, whichever is faster; floor: the port without a pipe",
			"MB/s", noTarget(), e.accel),
		filled.figure("stdout-pipe", "that process's, a pipe that the bare guest empties by throwing away what is in it: nothing is sent, "+
			"and no container's output can be faster; floor: the port", "MB/s", noTarget(), e.accel),
	}, nil
}

// fillPipe is how fast a process fills a pipe that is emptied as fast as can be.
func (m *crunMachine) fillPipe(bytes int64) (mbPerSecond float64, err error) {
	microseconds, err := m.ask(fmt.Sprintf("sink %d", bytes>>20))
	if err == nil && microseconds == 0 {
		err = errors.New("the bare guest says that a pipe took no time")
	}
	return float64(bytes) / float64(microseconds), err
}

// measureGrowth looks at what many execs leave in the shim's memory. The first ones bring it to its working size, which
// happens once in a shim's life: so there is one run, however many were asked for.
func measureGrowth(ctx context.Context, e *env, _ int) (_ []Figure, err error) {
	const before, after = 50, 1000
	w, err := startWorkload(ctx, e)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.stop(ctx)) }()
	pid, err := shimOf(w.pod.ID)
	if err != nil {
		return nil, err
	}
	var resident [2]float64
	for i, execs := range []int{before, after} {
		for range execs {
			if _, err := w.app.Exec(ctx, "true"); err != nil {
				return nil, err
			}
		}
		if resident[i], err = residentMB(pid); err != nil {
			return nil, err
		}
	}
	var s samples
	s.add(resident[1], resident[0])
	return []Figure{s.figure("execs", fmt.Sprintf("resident memory of the shim after %d more execs; floor: after the first %d",
		after, before), "MB", ratioAtMost(1.05), e.accel)}, nil
}
