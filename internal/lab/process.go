package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// environMark is set to the lab's folder in the environment of every process that the lab starts, and so of theirs.
const environMark = "KATADIRECT_LAB"

// Command is a program to start inside the lab.
type Command struct {
	// Name is what the log file and messages call it.
	Name string
	Path string
	Args []string
	// Env is added to our own environment.
	Env []string
}

// Process is a program that runs inside the lab.
type Process struct {
	name string
	// Command is what was started.
	Command Command
	log     string
	cmd     *exec.Cmd
	done    chan struct{}
	err     error // of Wait; valid when done is closed
}

// stopTimeout is how long a program may take to end after SIGTERM. containerd takes long on a host that is busy.
const stopTimeout = time.Minute

// Start starts a program inside the lab. Its output goes to a file under Dir.
func (l *Lab) Start(c Command) (*Process, error) {
	if err := os.MkdirAll(filepath.Join(l.Dir, "log"), 0o755); err != nil {
		return nil, err
	}
	logPath := filepath.Join(l.Dir, "log", c.Name+".log")
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := l.command(c)
	cmd.Stdout, cmd.Stderr = log, log
	if err := l.ns.start(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Name, err)
	}
	p := &Process{name: c.Name, Command: c, log: logPath, cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	l.processes = append(l.processes, p)
	return p, nil
}

// Run runs a program inside the lab to its end and returns what it wrote.
func (l *Lab) Run(ctx context.Context, c Command) (string, error) {
	out, err := os.CreateTemp(l.Dir, "output-")
	if err != nil {
		return "", err
	}
	defer func() {
		_ = out.Close()
		_ = os.Remove(out.Name())
	}()
	cmd := l.command(c)
	cmd.Stdout, cmd.Stderr = out, out
	if err := l.ns.start(cmd); err != nil {
		return "", fmt.Errorf("start %s: %w", c.Name, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	err = cmd.Wait()
	stop()
	said, readErr := os.ReadFile(out.Name())
	if err != nil {
		return string(said), fmt.Errorf("%s: %w: %s", c.Name, errors.Join(err, ctx.Err()), lastLines(said))
	}
	return string(said), readErr
}

func (l *Lab) command(c Command) *exec.Cmd {
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Env = append(append(os.Environ(), environMark+"="+l.Dir), c.Env...)
	cmd.Dir = l.Dir
	// A Ctrl-C in the terminal is for the program that opened the lab, which then ends things in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd
}

// PID is the process id as the host sees it.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Kill ends the process as a crash would, and returns when it is gone.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Stop asks the process to end and kills it when it does not. Stopping an ended process succeeds.
func (p *Process) Stop(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	default:
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		p.Kill()
		return fmt.Errorf("%s did not end within %s of SIGTERM and was killed", p.name, stopTimeout)
	}
}

// waitFor calls ready until it succeeds, the process ends or ctx does. The error holds the process's last words.
func (p *Process) waitFor(ctx context.Context, ready func(context.Context) error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.done:
			return fmt.Errorf("%s ended at its start (%w): %s", p.name, p.err, p.LastWords())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w (%w): %s", p.name, ctx.Err(), err, p.LastWords())
		}
	}
}

// WaitFor is waitFor for callers that start programs of their own: it polls ready until it succeeds.
func (p *Process) WaitFor(ctx context.Context, ready func(context.Context) error) error {
	return p.waitFor(ctx, ready)
}

// Said is all that the process has logged.
func (p *Process) Said() string {
	said, _ := os.ReadFile(p.log)
	return string(said)
}

// LastWords are the last lines that the process has logged.
func (p *Process) LastWords() string {
	said, _ := os.ReadFile(p.log)
	return lastLines(said)
}

func lastLines(said []byte) string {
	const enough = 8000
	if len(said) > enough {
		said = said[len(said)-enough:]
	}
	return string(said)
}

// Find lists the processes of the lab whose command line has all of the words in it, with the ids that the host
// gives them.
func (l *Lab) Find(words ...string) ([]int, error) {
	pids, err := l.ns.pids()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(pids, func(pid int) bool {
		line := commandLine(pid)
		return slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) })
	}), nil
}

func commandLine(pid int) string {
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.TrimSpace(strings.ReplaceAll(string(raw), "\x00", " "))
}

// Process is the last program of that name that was started, or nil.
func (l *Lab) Process(name string) *Process {
	for _, p := range slices.Backward(l.processes) {
		if p.name == name {
			return p
		}
	}
	return nil
}

// StopProcess stops the program of that name, or does nothing if none was started.
func (l *Lab) StopProcess(ctx context.Context, name string) error {
	if p := l.Process(name); p != nil {
		return p.Stop(ctx)
	}
	return nil
}

// LastWords are the last lines that the program of that name has logged.
func (l *Lab) LastWords(name string) string {
	said, _ := os.ReadFile(filepath.Join(l.Dir, "log", name+".log"))
	return lastLines(said)
}
