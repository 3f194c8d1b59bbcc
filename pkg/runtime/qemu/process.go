package qemu

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"github.com/katadirect/katadirect/internal/netns"
)

// process is a running QEMU.
type process struct {
	pid    int
	handle *os.Process
	exited chan struct{}    // closed when it has been reaped
	state  *os.ProcessState // valid after exited
}

// startProcess runs program with args and the files at descriptors 3, 4, …. The process is killed by the kernel when
// this one dies, so that a crashed shim leaves no machine behind.
//
// The kernel ties that to the thread which forked, not to the process: the goroutine below keeps its thread until
// QEMU is gone.
func startProcess(program string, args []string, files []*os.File, namespace *os.File, stderr io.Writer) (*process, error) {
	cmd := exec.Command(program, args...)
	cmd.ExtraFiles = files
	cmd.Stderr = stderr
	// A group of its own: an interrupt typed at a terminal is for this process to handle, not for the machine.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.WaitDelay = time.Second // nobody else should hold QEMU's stderr; if someone does, do not wait for them

	p := &process{exited: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := startIn(namespace, cmd)
		if err == nil {
			p.pid, p.handle = cmd.Process.Pid, cmd.Process
		}
		started <- err
		if err != nil {
			return
		}
		_ = cmd.Wait() // what it says is in ProcessState
		p.state = cmd.ProcessState
		close(p.exited)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start QEMU: %w", err)
	}
	return p, nil
}

func startIn(namespace *os.File, cmd *exec.Cmd) error {
	if namespace == nil {
		return cmd.Start()
	}
	return netns.Do(namespace, cmd.Start)
}

// kill ends the process with SIGKILL. It may be called at any time.
func (p *process) kill() { _ = p.handle.Kill() } // the only failure is that it has ended

// killAfter returns when the process has ended: by itself, or killed after grace.
func (p *process) killAfter(grace time.Duration) {
	select {
	case <-p.exited:
	case <-time.After(grace):
		p.kill()
		<-p.exited
	}
}

// ending says in words how the process ended; valid after exited.
func (p *process) ending() string {
	status, ok := p.state.Sys().(syscall.WaitStatus)
	switch {
	case ok && status.Signaled():
		return fmt.Sprintf("QEMU was killed by signal %d (%s)", int(status.Signal()), status.Signal())
	case ok && status.ExitStatus() == 0:
		return "QEMU ended"
	}
	return fmt.Sprintf("QEMU failed (%s)", p.state)
}
