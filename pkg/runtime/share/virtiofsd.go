package share

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
)

// daemon is a running virtiofsd.
type daemon struct {
	*child
	socket string
	last   *lastLines
}

// startDaemon starts virtiofsd on a listening socket that is made here, so that the hypervisor can connect at once.
func startDaemon(ctx context.Context, c Config, shared string) (d *daemon, err error) {
	args, err := daemonArgs(ctx, c, shared)
	if err != nil {
		return nil, err
	}
	listener, err := listen(c.Socket)
	if err != nil {
		return nil, fmt.Errorf("listen for virtio-fs: %w", err)
	}
	defer func() { _ = listener.Close() }()

	last := &lastLines{log: c.Log}
	cmd := exec.Command(c.Daemon, args...)
	cmd.Stdout, cmd.Stderr = last, last
	cmd.ExtraFiles = []*os.File{listener} // descriptor 3, as the arguments say
	started, err := startChild(cmd)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start virtiofsd: %w", err), os.Remove(c.Socket))
	}
	return &daemon{child: started, socket: c.Socket, last: last}, nil
}

// why says how the daemon ended, with its last words; called after done is closed.
func (d *daemon) why() error {
	if words := d.last.String(); words != "" {
		return fmt.Errorf("virtiofsd ended: %w: %s", d.err, words)
	}
	return fmt.Errorf("virtiofsd ended: %w", d.err)
}

func (d *daemon) stop(ctx context.Context) error {
	return errors.Join(d.child.stop(ctx), ignoring(fs.ErrNotExist, os.Remove(d.socket)))
}

// listen makes a listening unix socket of mode 0600 and returns its descriptor.
func listen(path string) (*os.File, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	defer func() { _ = l.Close() }()
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	return l.File()
}

// lastLines logs what the daemon says and keeps the end of it for the error. A line, the rate and the memory are
// bounded: a guest can make the daemon complain as often as it likes.
type lastLines struct {
	log   *slog.Logger
	mu    sync.Mutex
	tail  []byte
	lines int
}

const (
	maxTail  = 2 << 10
	maxLines = 1000
)

func (l *lastLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tail = append(l.tail, p...)
	if excess := len(l.tail) - maxTail; excess > 0 {
		l.tail = append(l.tail[:0], l.tail[excess:]...)
	}
	if l.lines++; l.lines <= maxLines {
		l.log.Debug("virtiofsd", "says", strings.TrimSpace(string(p[:min(len(p), maxTail)])))
	}
	return len(p), nil
}

func (l *lastLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(strings.Fields(string(l.tail)), " ")
}
