package share

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"

	"github.com/katadirect/katadirect/pkg/runtime/child"
)

// daemon is a running virtiofsd.
type daemon struct {
	*child.Child
	socket string
	last   *child.Words
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

	last := child.NewWords("virtiofsd", c.Log)
	cmd := exec.Command(c.Daemon, args...)
	cmd.Stdout, cmd.Stderr = last, last
	cmd.ExtraFiles = []*os.File{listener} // descriptor 3, as the arguments say
	started, err := child.Start(cmd, nil)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start virtiofsd: %w", err), os.Remove(c.Socket))
	}
	return &daemon{Child: started, socket: c.Socket, last: last}, nil
}

// why says how the daemon ended, with its last words; called after done is closed.
func (d *daemon) why() error {
	if words := d.last.String(); words != "" {
		return fmt.Errorf("virtiofsd ended: %w: %s", d.Err(), words)
	}
	return fmt.Errorf("virtiofsd ended: %w", d.Err())
}

func (d *daemon) stop(ctx context.Context) error {
	return errors.Join(d.Child.Stop(ctx), ignoring(fs.ErrNotExist, os.Remove(d.socket)))
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
