package crash

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/katadirect/katadirect/internal/demo"
	"github.com/katadirect/katadirect/test/artifacts"
)

// process is a real "katadirect demo".
type process struct {
	cmd *exec.Cmd
	// dir is its TMPDIR, which every process of its run has in its environment.
	dir   string
	lines *bufio.Scanner
	said  []string
	// reading is held by who reads lines.
	reading sync.Mutex
}

// start starts the demo in a process group of its own, like a terminal does.
func start(t *testing.T, dir string) *process {
	t.Helper()
	cmd := exec.Command(filepath.Join(artifacts.BinDir, "katadirect"), "demo",
		"--guest", artifacts.Image.Dir, "--report", filepath.Join(t.TempDir(), "demo.json"))
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	must(t, err)
	cmd.Stderr = cmd.Stdout
	must(t, cmd.Start())
	return &process{cmd: cmd, dir: dir, lines: bufio.NewScanner(out)}
}

// shortDir is a temporary folder whose path leaves room for what stands below it: paths of sockets are limited.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "kd-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	return dir
}

// until reads what the demo says until a step begins.
func (p *process) until(step string) bool { return p.read(step + " ...") }

// read reads what the demo says until a line begins like that.
func (p *process) read(prefix string) bool {
	p.reading.Lock()
	defer p.reading.Unlock()
	for p.lines.Scan() {
		p.said = append(p.said, p.lines.Text())
		if strings.HasPrefix(p.lines.Text(), prefix) {
			return true
		}
	}
	return false
}

// signal sends sig to the whole process group, as a terminal does, and returns what Wait says.
func (p *process) signal(sig syscall.Signal) error {
	if err := syscall.Kill(-p.cmd.Process.Pid, sig); err != nil {
		return err
	}
	p.until("")
	return p.cmd.Wait()
}

// running lists the processes that have dir as TMPDIR in their environment.
func (p *process) running() ([]string, error) {
	environs, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(environs, func(path string) bool {
		environ, err := os.ReadFile(path)
		return err != nil || !slices.Contains(strings.Split(string(environ), "\x00"), "TMPDIR="+p.dir)
	}), nil
}

// traces lists everything of the run that is on the host: processes, mounts, loop devices, files, cgroups.
func (p *process) traces(t *testing.T) []string {
	t.Helper()
	traces, err := p.running()
	must(t, err)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, p.dir) {
			traces = append(traces, line)
		}
	}
	for _, pattern := range []string{p.dir + "/*", "/sys/fs/cgroup/*/katadirect-*", "/sys/fs/cgroup/katadirect-*"} {
		found, err := filepath.Glob(pattern)
		must(t, err)
		traces = append(traces, found...)
	}
	loops, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	must(t, err)
	for _, loop := range loops {
		if backing, err := os.ReadFile(loop); err == nil && strings.HasPrefix(string(backing), p.dir) {
			traces = append(traces, loop)
		}
	}
	return traces
}

func TestCtrlCAtAnyStepLeavesNothing(t *testing.T) {
	for _, step := range demo.Steps {
		t.Run(step, func(t *testing.T) { interrupt(t, step, 0) })
	}
}

// interrupt sends Ctrl-C to a demo some time after a step has begun, and looks for what it leaves.
func interrupt(t *testing.T, step string, after time.Duration) {
	t.Helper()
	p := start(t, shortDir(t))
	if !p.until(step) {
		t.Fatalf("the demo has not come to that step:\n%s", strings.Join(p.said, "\n"))
	}
	over := make(chan struct{})
	go func() { p.read(step + ": "); close(over) }()
	select {
	case <-time.After(after): // the instant is what is varied here
	case <-over: // where machines boot faster, the demo itself might be
	}
	err := p.signal(syscall.SIGINT)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 130 {
		t.Errorf("the demo ended with %v, want code 130\n%s", err, strings.Join(p.said, "\n"))
	}
	if !slices.ContainsFunc(p.said, func(line string) bool { return strings.Contains(line, "0 things are left over") }) {
		t.Errorf("the demo itself found something left over:\n%s", strings.Join(p.said, "\n"))
	}
	if left := p.traces(t); len(left) > 0 {
		t.Errorf("left over:\n%s\nthe demo said:\n%s", strings.Join(left, "\n"), strings.Join(p.said, "\n"))
	}
}

// Steps that take longest are interrupted in their middle too: while the machine boots, while the volume is plugged.
func TestCtrlCInTheMiddleOfALongStepLeavesNothing(t *testing.T) {
	for _, tc := range []struct {
		step  string
		after time.Duration
	}{
		{demo.StepStart, 100 * time.Millisecond},
		{demo.StepRunPod, 300 * time.Millisecond},
		{demo.StepRunPod, time.Second},
		{demo.StepRunPod, 2 * time.Second},
		{demo.StepRunContainer, 50 * time.Millisecond},
		{demo.StepRunContainer, 200 * time.Millisecond},
		{demo.StepRunContainer, 500 * time.Millisecond},
		{demo.StepExpand, 20 * time.Millisecond},
		{demo.StepDeletePod, 200 * time.Millisecond},
		{demo.StepSecondPod, 2500 * time.Millisecond},
	} {
		t.Run(fmt.Sprintf("%s, %s later", tc.step, tc.after), func(t *testing.T) {
			interrupt(t, tc.step, tc.after)
		})
	}
}

// A demo that is killed cannot clean up. The kernel ends its processes, and the next demo removes its folder.
func TestAKilledDemoLeavesNoProcessAndTheNextRemovesTheRest(t *testing.T) {
	dir := shortDir(t)
	p := start(t, dir)
	if !p.until(demo.StepExpand) {
		t.Fatalf("the demo has not come to that step:\n%s", strings.Join(p.said, "\n"))
	}
	if err := p.signal(syscall.SIGKILL); err == nil {
		t.Fatal("a killed demo ended well")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		left, err := p.running()
		must(t, err)
		if len(left) == 0 {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("still running: %v", left)
		}
		time.Sleep(20 * time.Millisecond)
	}
	p = start(t, dir)
	p.until("")
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("the next demo: %v\n%s", err, strings.Join(p.said, "\n"))
	}
	if left := p.traces(t); len(left) > 0 {
		t.Errorf("left over:\n%s", strings.Join(left, "\n"))
	}
}
