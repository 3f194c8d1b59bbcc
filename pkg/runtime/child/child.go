// Package child runs the programs that a sandbox needs beside its machine, so that they end with the process that
// started them, and can be ended for good by a later one. It knows nothing of what they do.
package child

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/netns"
	"github.com/katadirect/katadirect/internal/pidfd"
)

// Process names a process for good: its id together with the moment it started, which no later process of the same
// id can have.
type Process struct {
	PID int `json:"pid"`
	// StartTicks is field 22 of /proc/PID/stat, in clock ticks since the host booted.
	StartTicks uint64 `json:"startTicks"`
}

// identify reads the start time of a child that has not been waited for.
func identify(pid int) (Process, error) {
	ticks, err := startTicks(pid)
	return Process{PID: pid, StartTicks: ticks}, err
}

// startTicks returns fs.ErrNotExist or ESRCH when there is no such process.
func startTicks(pid int) (uint64, error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	// The second field is the command in brackets and may hold anything, brackets and spaces too.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat has no start time", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// Kill ends the process and its process group with SIGKILL and waits until it is gone. It serves a fresh process
// after a crash: a process that has ended, or an id that belongs to another one by now, is success.
func (p Process) Kill(ctx context.Context) error {
	return p.with(func(held *pidfd.Process) error {
		_ = unix.Kill(-p.PID, unix.SIGKILL) // what it has forked; it leads its group
		return held.Kill(ctx)
	})
}

// Wait waits until the process has ended, whoever ends it.
func (p Process) Wait(ctx context.Context) error {
	return p.with(func(held *pidfd.Process) error { return held.Wait(ctx) })
}

// with holds the process and calls f with it, unless it has ended.
func (p Process) with(f func(*pidfd.Process) error) error {
	held, err := pidfd.Open(p.PID)
	if err != nil || held == nil {
		return err
	}
	defer held.Close()
	// Held is whoever has the id now; it is ours only if it also started then.
	if ticks, err := startTicks(p.PID); err != nil || ticks != p.StartTicks {
		return nil
	}
	return f(held)
}

// Child is a running child process.
type Child struct {
	Process
	done chan struct{}
	err  error // why it ended; read after done is closed
}

// Start starts cmd so that it cannot outlive this process: the kernel kills it when the thread that forked it
// ends, so one thread is kept for it until it has ended.
//
// With a network namespace it runs in there; nil is the caller's own.
func Start(cmd *exec.Cmd, namespace *os.File) (*Child, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.WaitDelay = time.Second // a forked child of its own may hold the pipes
	c := &Child{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		err := startIn(namespace, cmd)
		if err == nil {
			c.Process, err = identify(cmd.Process.Pid)
		}
		started <- err
		if cmd.Process != nil {
			c.err = ended(cmd.Wait())
			close(c.done)
		}
	}()
	if err := <-started; err != nil {
		if cmd.Process != nil {
			_ = cmd.Process.Kill()
		}
		return nil, err
	}
	return c, nil
}

func startIn(namespace *os.File, cmd *exec.Cmd) error {
	if namespace == nil {
		return cmd.Start()
	}
	return netns.Do(namespace, cmd.Start)
}

// Done is closed when it has ended.
func (c *Child) Done() <-chan struct{} { return c.done }

// Err says why it has ended; valid after Done is closed.
func (c *Child) Err() error { return c.err }

func ended(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

// Stop kills it and waits.
func (c *Child) Stop(ctx context.Context) error {
	select {
	case <-c.done:
		return nil
	default:
	}
	// It has not been waited for, so the id is still its own.
	_ = syscall.Kill(-c.PID, syscall.SIGKILL)
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("process %d does not end: %w", c.PID, ctx.Err())
	}
}
