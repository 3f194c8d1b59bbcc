package task

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"
)

// copyBuffer is how much is taken from the guest in one read: below 256 KiB the calls cost more than the data.
const copyBuffer = 256 << 10

// stallLimit is how long a killed process's output may wait for somebody to read the fifo. Before the kill it waits
// for ever, and the process with it, so that containerd can be restarted without a line lost.
const stallLimit = 3 * time.Second

// openTimeout is how long containerd may take to open its ends.
const openTimeout = 10 * time.Second

var buffers = sync.Pool{New: func() any { b := make([]byte, copyBuffer); return &b }}

// StdioConfig names a process's streams as containerd did: paths of fifos or files, file:// URIs, or empty; or, as stdout,
// a binary:// URI for both outputs.
type StdioConfig struct {
	Stdin, Stdout, Stderr string
	Terminal              bool
	// ID is the process's, and Namespace containerd's, which a program for the output is told.
	ID, Namespace string
}

// guest is the other end of the streams. What waits for the guest there is ended by end.
type guest struct {
	stdin          io.WriteCloser
	stdout, stderr io.Reader
	end            func()
}

// stdio is one process's three streams, opened on this side. All methods are safe to call at any time, in any order.
type stdio struct {
	config StdioConfig
	log    *slog.Logger

	stdin          *input      // nil without one
	stdout, stderr *output     // nil: read and thrown away, so that the process is not held up
	program        *logProgram // nil without one; reads both
	outputs        sync.WaitGroup
	input          sync.WaitGroup

	mu     sync.Mutex
	end    func() // guarded by mu; nil before start
	closed bool   // guarded by mu
}

// openStdio opens the streams. It waits until containerd has opened the other end of the outputs, which it is doing at
// this moment, but no longer than openTimeout.
func openStdio(ctx context.Context, c StdioConfig, log *slog.Logger) (_ *stdio, err error) {
	s := &stdio{config: c, log: log}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	if s.stdin, err = openInput(c.Stdin); err != nil {
		return nil, fmt.Errorf("open stdin: %w", err)
	}
	if uri, ok := asProgram(c.Stdout); ok {
		if s.program, s.stdout, s.stderr, err = startLogProgram(ctx, uri, c, log); err != nil {
			return nil, err
		}
		return s, nil // on a terminal nothing comes on stderr
	}
	if s.stdout, err = openOutput(ctx, c.Stdout); err != nil {
		return nil, fmt.Errorf("open stdout: %w", err)
	}
	if c.Terminal {
		return s, nil
	}
	if s.stderr, err = openOutput(ctx, c.Stderr); err != nil {
		return nil, fmt.Errorf("open stderr: %w", err)
	}
	return s, nil
}

// start begins to copy. It returns at once; drained tells when the output is complete.
func (s *stdio) start(g guest) {
	s.mu.Lock()
	s.end = g.end
	if s.closed {
		g.end()
	}
	s.mu.Unlock()
	if s.stdin != nil {
		if err := s.stdin.begin(); err != nil {
			s.log.Warn("stdin ends with its first client", "error", err)
		}
		s.input.Go(func() { s.copyIn(g.stdin) })
	}
	s.outputs.Go(func() { s.copyOut("stdout", s.stdout, g.stdout) })
	if !s.config.Terminal {
		s.outputs.Go(func() { s.copyOut("stderr", s.stderr, g.stderr) })
	}
}

func (s *stdio) copyIn(to io.WriteCloser) {
	// The process is free to end, or to close its stdin, before it has read everything.
	if _, err := copyStream(to, s.stdin.file); err != nil {
		s.log.Debug("stdin ended early", "error", err)
	}
	if err := to.Close(); err != nil {
		s.log.Debug("close stdin in the guest", "error", err)
	}
}

func (s *stdio) copyOut(name string, to *output, from io.Reader) {
	var sink io.Writer = io.Discard
	switch {
	case to == nil:
	case to.keepOpen == nil:
		sink = writer{to} // a file: it has no TryWrite, for a disk can be waited for
	default:
		sink = to
	}
	n, err := copyStream(sink, from)
	if err != nil {
		s.log.Warn("output ended early", "stream", name, "bytes", n, "error", err)
	}
	if to == nil {
		return
	}
	if lost := to.lost.Load(); lost > 0 {
		s.log.Warn("output that nobody read was thrown away", "stream", name, "bytes", lost)
	}
	to.finish()
}

// copyStream is io.Copy with a large pooled buffer; a source or sink that can do without one is left to it.
func copyStream(to io.Writer, from io.Reader) (int64, error) {
	if w, ok := from.(io.WriterTo); ok {
		if _, isFile := from.(*os.File); !isFile {
			return w.WriteTo(to)
		}
	}
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	return io.CopyBuffer(writer{to}, reader{from}, *buffer)
}

// writer and reader hide the optional methods of what they wrap, which would bring io.Copy's small buffer back.
type (
	writer struct{ io.Writer }
	reader struct{ io.Reader }
)

// drained returns a channel that is closed when everything the process wrote has been passed on.
func (s *stdio) drained() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		s.outputs.Wait()
		close(done)
	}()
	return done
}

// hurry is called when the process has been killed: from now on output waits stallLimit for a reader, no longer.
func (s *stdio) hurry() {
	for _, o := range []*output{s.stdout, s.stderr} {
		if o != nil {
			o.hurry()
		}
	}
}

// closeStdin lets the process see the end of its input, once what is in the fifo has been read and containerd has
// closed its side too.
func (s *stdio) closeStdin() {
	if s.stdin != nil {
		s.stdin.release()
	}
}

// finish lets containerd see the end of the output of a process that has ended. What it has not read yet it can still
// read, until close: it may be away, and find the process ended when it comes back.
func (s *stdio) finish() {
	s.endGuest()
	if s.stdin != nil {
		s.stdin.close()
	}
	for _, o := range []*output{s.stdout, s.stderr} {
		if o != nil {
			o.finish()
		}
	}
}

// unread is how much of the output waits in a fifo to be read, in bytes. One whose reader has been waited for in vain
// does not count.
func (s *stdio) unread() int {
	n := 0
	for _, o := range []*output{s.stdout, s.stderr} {
		if o != nil && !o.stalled.Load() {
			n += o.unread()
		}
	}
	return n
}

// close gives everything back, and waits for a program that reads the output. Copying that is still under way ends with an
// error.
func (s *stdio) close() {
	s.endGuest()
	if s.stdin != nil {
		s.stdin.close()
	}
	for _, o := range []*output{s.stdout, s.stderr} {
		if o != nil {
			o.close()
		}
	}
	if s.program != nil {
		s.program.end()
	}
}

// endGuest ends what waits for the guest: one that does not answer must not hold a goroutine and a buffer for ever.
func (s *stdio) endGuest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.end != nil {
		s.end()
	}
}
