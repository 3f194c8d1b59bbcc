package task

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// input is the fifo that a process's stdin comes from. While the process runs, this side holds a writing end as well,
// so that the stream does not end when containerd restarts or a client of "attach" goes; release lets go of it.
type input struct {
	file *os.File
	path string

	mu       sync.Mutex
	keepOpen *os.File // guarded by mu; the writing end, nil before begin
	released bool     // guarded by mu
}

func openInput(path string) (*input, error) {
	if path == "" {
		return nil, nil
	}
	// With O_NONBLOCK this does not wait for a writer.
	file, err := os.OpenFile(path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return &input{file: file, path: path}, nil
}

// begin is called when the process starts. A client that has written all its input by then and gone, as "echo | ctr
// run" does while the machine boots, will not ask for the end of the stream any more: it has come.
func (i *input) begin() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.released || !isFIFO(i.path) || hungUp(i.file) {
		return nil
	}
	var err error
	i.keepOpen, err = os.OpenFile(i.path, unix.O_WRONLY|unix.O_NONBLOCK, 0)
	return err
}

func (i *input) release() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.released = true
	i.keepOpen.Close() // of nil an error, and harmless
}

func (i *input) close() {
	i.release()
	i.file.Close()
}

// hungUp tells whether a fifo has had writers and has none any more.
func hungUp(f *os.File) bool {
	conn, err := f.SyscallConn()
	if err != nil {
		return false
	}
	poll := []unix.PollFd{{}}
	err = conn.Control(func(fd uintptr) {
		poll[0].Fd = int32(fd)
		_, _ = unix.Poll(poll, 0)
	})
	return err == nil && poll[0].Revents&unix.POLLHUP != 0
}

// output is the fifo or file that a process's stdout or stderr goes to. Of a fifo this side holds a reading end as
// well: when containerd restarts the pipe does not break, it fills, the process waits, and goes on when containerd
// reads again.
type output struct {
	file     *os.File
	raw      syscall.RawConn // of a fifo's file
	keepOpen *os.File        // nil for a file
	done     chan struct{}   // closed by close

	closing, finishing sync.Once

	hurrying atomic.Bool
	stalled  atomic.Bool
	lost     atomic.Int64
}

func openOutput(ctx context.Context, name string) (*output, error) {
	if name == "" {
		return nil, nil
	}
	path := name
	if uri, err := url.Parse(name); err == nil {
		switch uri.Scheme {
		case "":
		case "fifo":
			path = uri.Path
		case "file":
			return openLogFile(uri.Path)
		default:
			return nil, fmt.Errorf("%w: logging to a %s:// URI; fifos, file:// and, for both outputs, binary:// are supported",
				ErrNotImplemented, uri.Scheme)
		}
	}
	if isFIFO(path) {
		return openFIFO(ctx, path)
	}
	file, err := os.OpenFile(path, unix.O_WRONLY|unix.O_APPEND, 0)
	if err != nil {
		return nil, err
	}
	return &output{file: file, done: make(chan struct{})}, nil
}

func openLogFile(path string) (*output, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT, 0o644)
	if err != nil {
		return nil, err
	}
	return &output{file: file, done: make(chan struct{})}, nil
}

// openFIFO meets the reader. Opened in any other way the fifo could be written and closed before containerd has it
// open, and containerd would wait for a writer for ever.
func openFIFO(ctx context.Context, path string) (*output, error) {
	type result struct {
		file *os.File
		err  error
	}
	opened := make(chan result, 1)
	go func() {
		file, err := os.OpenFile(path, unix.O_WRONLY, 0)
		opened <- result{file, err}
	}()
	var got result
	var gaveUp error
	select {
	case got = <-opened:
	case <-ctx.Done():
		gaveUp = fmt.Errorf("nobody reads %s: %w", path, ctx.Err())
	}
	// With the open given up, this is the reader that lets it return.
	keepOpen, err := os.OpenFile(path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if gaveUp != nil && err == nil {
		got = <-opened
	}
	if err == nil {
		widen(keepOpen)
	}
	o := &output{file: got.file, keepOpen: keepOpen, done: make(chan struct{})}
	if err := errors.Join(gaveUp, got.err, err); err != nil {
		o.close()
		return nil, err
	}
	if o.raw, err = o.file.SyscallConn(); err != nil {
		o.close()
		return nil, err
	}
	return o, nil
}

// fifoSize is what a fifo holds, in bytes: as much as one read of the guest's brings, so that neither side waits for the
// other's turn with every 64 KiB.
const fifoSize = 1 << 20

// widen makes a fifo hold more. Without it things work as well.
func widen(fifo *os.File) {
	if conn, err := fifo.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, fifoSize) })
	}
}

// Write passes p on, waiting for a reader as long as it may. What cannot be passed on any more is counted and
// forgotten: the stream must be read to its end all the same.
func (o *output) Write(p []byte) (int, error) {
	if o.stalled.Load() {
		o.lost.Add(int64(len(p)))
		return len(p), nil
	}
	if o.hurrying.Load() {
		o.setDeadline()
	}
	n, err := o.file.Write(p)
	if err != nil {
		o.stalled.Store(true)
		o.lost.Add(int64(len(p) - n))
	}
	return len(p), nil
}

// TryWrite passes on what a fifo has room for, and returns how much that was. It waits for nobody.
func (o *output) TryWrite(p []byte) (taken int) {
	if o.stalled.Load() {
		o.lost.Add(int64(len(p)))
		return len(p)
	}
	var failure error
	err := o.raw.Control(func(fd uintptr) {
		for taken < len(p) && failure == nil {
			var n int
			n, failure = unix.Write(int(fd), p[taken:])
			taken += max(n, 0)
			if errors.Is(failure, unix.EINTR) {
				failure = nil
			}
		}
	})
	if err = errors.Join(err, failure); err != nil && !errors.Is(err, unix.EAGAIN) {
		o.stalled.Store(true)
		o.lost.Add(int64(len(p) - taken))
		return len(p)
	}
	return taken
}

func (o *output) hurry() {
	o.hurrying.Store(true)
	o.setDeadline()
}

// setDeadline reaches a write that is waiting, too. Regular files never wait and have no deadlines.
func (o *output) setDeadline() { _ = o.file.SetWriteDeadline(time.Now().Add(stallLimit)) }

// Waits between looks at whether a fifo has been read double from lookMin to lookMax.
const (
	lookMin = time.Millisecond
	lookMax = 100 * time.Millisecond
)

// finish closes the output as soon as everything in it has been read. It returns at once.
func (o *output) finish() { o.finishing.Do(o.closeWhenRead) }

func (o *output) closeWhenRead() {
	if o.unread() == 0 {
		o.close()
		return
	}
	go func() {
		for look := lookMin; o.unread() > 0; look = min(2*look, lookMax) {
			select {
			case <-time.After(look):
			case <-o.done:
				return
			}
		}
		o.close()
	}()
}

// unread is how much is in the fifo that nobody has read, in bytes.
func (o *output) unread() int {
	if o.keepOpen == nil {
		return 0
	}
	conn, err := o.keepOpen.SyscallConn()
	if err != nil {
		return 0
	}
	waiting := 0
	if err := conn.Control(func(fd uintptr) { waiting, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }); err != nil {
		return 0
	}
	return waiting
}

func (o *output) close() {
	o.closing.Do(func() { close(o.done) })
	o.file.Close() // of nil an error, and harmless
	o.keepOpen.Close()
}

func isFIFO(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&os.ModeNamedPipe != 0
}
