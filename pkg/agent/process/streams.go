package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Streams are the agent's ends of a process's standard streams.
type Streams struct {
	stdin          *input
	stdout, stderr *output
	terminal       *os.File // nil without one
}

// Ends are the process's own ends, to be given to the program that starts it
// and then closed.
type Ends struct {
	Stdin, Stdout, Stderr *os.File
}

// Close closes the ends that are there.
func (e Ends) Close() {
	for _, f := range []*os.File{e.Stdin, e.Stdout, e.Stderr} {
		if f != nil {
			f.Close()
		}
	}
}

// NewPipes makes a pipe for each stream, those for output with pipeSize bytes
// of buffer.
func NewPipes(pipeSize int) (_ *Streams, ends Ends, err error) {
	var opened []*os.File
	defer func() {
		if err != nil {
			for _, f := range opened {
				f.Close()
			}
		}
	}()
	pipe := func() (read, write *os.File) {
		if err != nil {
			return nil, nil
		}
		if read, write, err = os.Pipe(); err == nil {
			opened = append(opened, read, write)
		}
		return read, write
	}
	childIn, in := pipe()
	out, childOut := pipe()
	errOut, childErr := pipe()
	if err != nil {
		return nil, Ends{}, fmt.Errorf("make standard streams: %w", err)
	}
	for _, f := range []*os.File{out, errOut} {
		setPipeSize(f, pipeSize)
	}
	return &Streams{stdin: newInput(in), stdout: newOutput(out), stderr: newOutput(errOut)},
		Ends{childIn, childOut, childErr}, nil
}

// setPipeSize gives a pipe more buffer. It is only for speed: without it things
// work as well. (Fd would do, but makes the descriptor block.)
func setPipeSize(f *os.File, size int) {
	if raw, err := f.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, size) })
	}
}

// NewTerminal makes streams of the master side of a terminal, which must not
// block.
func NewTerminal(master *os.File) *Streams {
	out := newOutput(master)
	return &Streams{stdin: newInput(master), stdout: out, stderr: out, terminal: master}
}

func (s *Streams) processExited() {
	if s.terminal == nil {
		_ = s.stdin.close()
	}
	s.stdout.processExited()
	if s.stderr != s.stdout {
		s.stderr.processExited()
	}
}

func (s *Streams) closeStdin() error {
	if s.terminal != nil {
		return nil
	}
	return s.stdin.close()
}

// Close closes all of them.
func (s *Streams) Close() error {
	_ = s.stdin.close()
	err := s.stdout.close()
	if s.stderr != s.stdout {
		err = errors.Join(err, s.stderr.close())
	}
	return err
}

// input is where a process reads from.
type input struct {
	turn chan struct{} // held by the one that writes

	mu     sync.Mutex
	file   *os.File
	closed bool
}

func newInput(f *os.File) *input {
	return &input{turn: make(chan struct{}, 1), file: f}
}

// write waits until the process has taken everything, or ctx ends.
func (i *input) write(ctx context.Context, data []byte) (int, error) {
	select {
	case i.turn <- struct{}{}:
		defer func() { <-i.turn }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	release := interruptible(ctx, i.file.SetWriteDeadline)
	n, err := i.file.Write(data)
	release()
	switch {
	case err == nil:
		return n, nil
	case ctx.Err() != nil:
		return n, ctx.Err()
	case errors.Is(err, os.ErrClosed), errors.Is(err, unix.EPIPE), errors.Is(err, unix.EIO):
		return n, ErrStdinClosed
	}
	return n, fmt.Errorf("write to standard input: %w", err)
}

// close ends the stream; a write under way fails.
func (i *input) close() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return nil
	}
	i.closed = true
	return i.file.Close()
}

// interruptible has setDeadline break off what is under way when ctx ends. The
// function it returns takes that back, and must be called.
func interruptible(ctx context.Context, setDeadline func(time.Time) error) (release func()) {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		_ = setDeadline(time.Unix(1, 0))
	})
	return func() {
		if !stop() {
			<-done
			_ = setDeadline(time.Time{})
		}
	}
}
