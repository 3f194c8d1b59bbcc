package task

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// logGrace is how long a program that takes a process's output may take to end, first by itself once it has all of it, and
// then after SIGTERM.
const logGrace = 5 * time.Second

// logProgram is a program that a process's output goes to, as in containerd's own shims (binary://): it reads stdout from
// descriptor 3 and stderr from 4, and closes 5 when it is ready for them. It may live longer than the shim, which is gone
// when the container is deleted: what is in the pipes is still the program's to read.
type logProgram struct {
	process *os.Process
	ended   chan struct{}
}

// asProgram returns what a stream's name says, if it names a program.
func asProgram(name string) (*url.URL, bool) {
	uri, err := url.Parse(name)
	return uri, err == nil && uri.Scheme == "binary"
}

// startLogProgram starts the program for the process id, and returns the outputs that it reads, when it is ready. The
// container or exec of that id is named to it as containerd does, and nothing else of the shim's environment.
func startLogProgram(ctx context.Context, uri *url.URL, c StdioConfig, log *slog.Logger) (_ *logProgram, stdout, stderr *output, err error) {
	var pipes [3]struct{ r, w *os.File }
	defer func() {
		for _, f := range []*os.File{pipes[0].r, pipes[1].r, pipes[2].w, pipes[2].r} { // the program's, and the last is read
			f.Close() // of nil an error, and harmless
		}
		if err != nil {
			pipes[0].w.Close()
			pipes[1].w.Close()
		}
	}()
	for i := range pipes {
		if pipes[i].r, pipes[i].w, err = os.Pipe(); err != nil {
			return nil, nil, nil, err
		}
	}
	cmd := exec.Command(uri.Path, programArgs(uri)...)
	cmd.Env = []string{"CONTAINER_ID=" + c.ID, "CONTAINER_NAMESPACE=" + c.Namespace}
	cmd.ExtraFiles = []*os.File{pipes[0].r, pipes[1].r, pipes[2].w}
	if err := cmd.Start(); err != nil {
		return nil, nil, nil, fmt.Errorf("start the program for the output: %w", err)
	}
	p := &logProgram{process: cmd.Process, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		if err := cmd.Wait(); err != nil {
			log.Warn("the program for the output has failed", "program", uri.Path, "error", err)
		}
	}()
	pipes[2].w.Close() // or there would be no end to read
	if err := awaitReady(ctx, pipes[2].r); err != nil {
		_ = p.process.Kill()
		return nil, nil, nil, fmt.Errorf("%s is not ready for the output: %w", uri.Path, err)
	}
	return p, newPipe(pipes[0].w), newPipe(pipes[1].w), nil
}

// programArgs are the query's keys and values, in its order; a value may be missing.
func programArgs(uri *url.URL) []string {
	var args []string
	for pair := range strings.SplitSeq(uri.RawQuery, "&") {
		key, value, _ := strings.Cut(pair, "=")
		for _, word := range []string{key, value} {
			if plain, err := url.QueryUnescape(word); err == nil && plain != "" {
				args = append(args, plain)
			}
		}
	}
	return args
}

// awaitReady waits until the other end is closed, or says something.
func awaitReady(ctx context.Context, ready *os.File) error {
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := ready.Read(make([]byte, 1)); err != nil && !errors.Is(err, io.EOF) {
		return errors.Join(err, ctx.Err())
	}
	return nil
}

// newPipe is an output that nobody but the program reads: when that is gone, what is written is thrown away.
func newPipe(w *os.File) *output { return &output{file: w, done: make(chan struct{})} }

// end waits until the program, whose input has ended, has ended too. One that does not is told to, and then made to.
func (p *logProgram) end() {
	for _, signal := range []os.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		select {
		case <-p.ended:
			return
		case <-time.After(logGrace):
			_ = p.process.Signal(signal) // it has just ended otherwise
		}
	}
}
