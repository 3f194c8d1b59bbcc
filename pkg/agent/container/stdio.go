package container

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agent/process"
)

// stdio is a way of giving a process its standard streams, for the time in
// which crun starts it.
type stdio struct {
	// ends become crun's own streams, which the process inherits; none with a
	// terminal.
	ends process.Ends
	// args are told to crun.
	args []string
	// collect returns the agent's ends, once crun has ended well.
	collect func() (*process.Streams, error)
	// close releases everything that was not collected.
	close func()
}

// pipes gives a process a pipe for each stream.
func pipes(pipeSize int) (stdio, error) {
	streams, ends, err := process.NewPipes(pipeSize)
	if err != nil {
		return stdio{}, err
	}
	collected := false
	return stdio{
		ends: ends,
		collect: func() (*process.Streams, error) {
			collected = true
			return streams, nil
		},
		close: func() {
			ends.Close()
			if !collected {
				streams.Close()
			}
		},
	}, nil
}

// console gives a process a terminal. crun makes it, inside the container, and
// passes its master side through a socket.
func console(int) (stdio, error) {
	// Not in the container's folder: a socket's path is limited to 107 bytes,
	// and ids may be longer.
	dir, err := os.MkdirTemp("", "tty")
	if err != nil {
		return stdio{}, fmt.Errorf("socket for a terminal: %w", err)
	}
	path := filepath.Join(dir, "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		os.RemoveAll(dir)
		return stdio{}, fmt.Errorf("socket for a terminal: %w", err)
	}
	return stdio{
		args:    []string{"--console-socket", path},
		collect: func() (*process.Streams, error) { return receiveTerminal(listener) },
		close: func() {
			listener.Close()
			os.RemoveAll(dir)
		},
	}, nil
}

// receiveTerminal takes the one descriptor that crun has sent by the time that
// it ended.
func receiveTerminal(listener *net.UnixListener) (*process.Streams, error) {
	conn, err := listener.AcceptUnix()
	if err != nil {
		return nil, fmt.Errorf("receive terminal: %w", err)
	}
	defer conn.Close()
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(make([]byte, 256), control)
	if err != nil {
		return nil, fmt.Errorf("receive terminal: %w", err)
	}
	fd, err := oneDescriptor(control[:n])
	if err != nil {
		return nil, fmt.Errorf("receive terminal: %w", err)
	}
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("receive terminal: %w", err)
	}
	return process.NewTerminal(os.NewFile(uintptr(fd), "terminal")), nil
}

func oneDescriptor(control []byte) (int, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return -1, err
	}
	for i := range messages {
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil && len(fds) == 1 {
			return fds[0], nil
		}
	}
	return -1, errors.New("no descriptor came")
}
