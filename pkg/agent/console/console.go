// Package console gives people a shell in the guest itself, outside of all
// containers: the debug console. It exists only in a machine that was booted
// with agent.debug_console, because whoever has it has all of the guest.
//
// pkg/agent/server calls it for the shim, which offers it on the host; Serve
// answers Kata's own tool over vsock. What a program's streams are is
// pkg/agent/process's knowledge.
package console

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agent/process"
	"github.com/katadirect/katadirect/pkg/agent/reaper"
)

// Port is the vsock port of the debug console, which Kata's tools connect to.
const Port = 1026

// most is how many programs there may be at a time.
const most = 8

var (
	// ErrMany is returned when there are too many programs already.
	ErrMany = fmt.Errorf("the debug console has %d users already", most)
	// ErrNone is returned for a program that there is not, or not any more.
	ErrNone = errors.New("the debug console has no such program")
	// ErrStart is returned for a program that cannot be started.
	ErrStart = errors.New("the debug console cannot start it")
)

// Console runs programs. Its exported fields are set once, before use.
type Console struct {
	Reaper *reaper.Reaper
	// Shell is what runs where no program is named, and its arguments.
	Shell []string
	// Busybox, if there is one, stands in for the programs that the guest does
	// not have.
	Busybox string
	// Cgroups is a folder of cgroup2's file system that belongs to the console:
	// each program gets a cgroup in it, and ends with all that is in there.
	Cgroups string

	mu       sync.Mutex
	last     uint64
	programs map[uint64]*program
}

// program is one that was started.
type program struct {
	*process.Process
	group *group
}

// Request says what to run.
type Request struct {
	Args, Env     []string
	Terminal      bool
	Rows, Columns uint16
}

// Open starts a program and returns the number it has from now on.
func (c *Console) Open(r Request) (id uint64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.programs) >= most {
		return 0, ErrMany
	}
	c.last++
	g, err := newGroup(c.Cgroups, c.last)
	if err != nil {
		return 0, err
	}
	p, err := c.start(r, g)
	if err != nil {
		return 0, errors.Join(err, g.end())
	}
	if c.programs == nil {
		c.programs = make(map[uint64]*program)
	}
	c.programs[c.last] = &program{p, g}
	return c.last, nil
}

func (c *Console) start(r Request, g *group) (*process.Process, error) {
	args := r.Args
	if len(args) == 0 {
		args = c.Shell
	}
	if _, err := exec.LookPath(args[0]); err != nil {
		if _, noBusybox := os.Stat(c.Busybox); noBusybox != nil {
			return nil, fmt.Errorf("%w: %w; a guest image made with `katadirect guest build --debug` has busybox", ErrStart, err)
		}
		args = append([]string{c.Busybox}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = "/"
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=/", "PS1=guest:$PWD# "}, r.Env...)
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	g.hold(cmd.SysProcAttr)
	streams, ends, err := open(r)
	if err != nil {
		return nil, err
	}
	defer ends.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = ends.Stdin, ends.Stdout, ends.Stderr
	if r.Terminal {
		cmd.Stdout, cmd.Stderr = ends.Stdin, ends.Stdin
		cmd.SysProcAttr.Setctty = true
	}
	child, err := c.Reaper.Start(cmd)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrStart, err), streams.Close())
	}
	return process.New(child, streams), nil
}

func open(r Request) (*process.Streams, process.Ends, error) {
	if !r.Terminal {
		return process.NewPipes(process.DefaultPipeSize)
	}
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, process.Ends{}, fmt.Errorf("make a terminal: %w", err)
	}
	slave, err := slaveOf(master)
	if err != nil {
		return nil, process.Ends{}, errors.Join(fmt.Errorf("make a terminal: %w", err), master.Close())
	}
	if r.Rows > 0 && r.Columns > 0 { // before a program looks
		size := unix.Winsize{Row: r.Rows, Col: r.Columns}
		_ = unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &size) // it has another size then
	}
	return process.NewTerminal(master), process.Ends{Stdin: slave}, nil
}

// slaveOf opens the other side of a terminal, see pty(7).
func slaveOf(master *os.File) (*os.File, error) {
	raw, err := master.SyscallConn()
	if err != nil {
		return nil, err
	}
	var number int
	var ioctlErr error
	err = raw.Control(func(fd uintptr) {
		if ioctlErr = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); ioctlErr == nil {
			number, ioctlErr = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err := errors.Join(err, ioctlErr); err != nil {
		return nil, err
	}
	return os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
}

// Program returns a program by its number.
func (c *Console) Program(id uint64) (*process.Process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.programs[id]
	if p == nil {
		return nil, fmt.Errorf("%w: %d", ErrNone, id)
	}
	return p.Process, nil
}

// Wait waits for a program's exit and returns its status.
func (c *Console) Wait(ctx context.Context, id uint64) (int, error) {
	p, err := c.Program(id)
	if err != nil {
		return 0, err
	}
	return p.Wait(ctx)
}

// Close ends a program with all that it has started, and forgets it.
func (c *Console) Close(id uint64) {
	c.mu.Lock()
	p := c.programs[id]
	delete(c.programs, id)
	c.mu.Unlock()
	if p != nil {
		p.end()
	}
}

// CloseAll ends all programs.
func (c *Console) CloseAll() {
	c.mu.Lock()
	var ids []uint64
	for id := range c.programs {
		ids = append(ids, id)
	}
	c.mu.Unlock()
	slices.Sort(ids)
	for _, id := range ids {
		c.Close(id)
	}
}

// end kills a program with all that it has started, also when it has ended
// itself by now.
func (p *program) end() {
	if err := p.group.end(); err != nil {
		slog.Warn("debug console", "error", err)
	}
	_ = p.Close() // nobody is left at the other end
}
