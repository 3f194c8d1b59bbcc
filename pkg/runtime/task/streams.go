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
	"time"

	"golang.org/x/sys/unix"
)

// input is the fifo that a process's stdin comes from. This side holds a writing end as well, so that the stream
// does not end when containerd restarts or a client of "attach" goes; release lets go of it.
type input struct {
	file     *os.File
	keepOpen *os.File
	once     sync.Once
}

func openInput(path string) (*input, error) {
	if path == "" {
		return nil, nil
	}
	// Opening for reading does not wait with O_NONBLOCK, and then opening for writing finds a reader.
	file, err := os.OpenFile(path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	in := &input{file: file}
	if isFIFO(path) {
		if in.keepOpen, err = os.OpenFile(path, unix.O_WRONLY|unix.O_NONBLOCK, 0); err != nil {
			return nil, errors.Join(err, file.Close())
		}
	}
	return in, nil
}

func (i *input) release() {
	i.once.Do(func() {
		if i.keepOpen != nil {
			i.keepOpen.Close()
		}
	})
}

func (i *input) close() {
	i.release()
	i.file.Close()
}

// output is the fifo or file that a process's stdout or stderr goes to. Of a fifo this side holds a reading end as
// well: when containerd restarts the pipe does not break, it fills, the process waits, and goes on when containerd
// reads again.
type output struct {
	file     *os.File
	keepOpen *os.File
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
			return nil, fmt.Errorf("%w: logging to a %s:// URI; fifos and file:// are supported",
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
	return &output{file: file}, nil
}

func openLogFile(path string) (*output, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT, 0o644)
	if err != nil {
		return nil, err
	}
	return &output{file: file}, nil
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
	o := &output{file: got.file, keepOpen: keepOpen}
	if err := errors.Join(gaveUp, got.err, err); err != nil {
		o.close()
		return nil, err
	}
	return o, nil
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

func (o *output) hurry() {
	o.hurrying.Store(true)
	o.setDeadline()
}

// setDeadline reaches a write that is waiting, too. Regular files never wait and have no deadlines.
func (o *output) setDeadline() { _ = o.file.SetWriteDeadline(time.Now().Add(stallLimit)) }

func (o *output) close() {
	o.file.Close() // closing a nil *os.File is an error, and harmless
	o.keepOpen.Close()
}

func isFIFO(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&os.ModeNamedPipe != 0
}
