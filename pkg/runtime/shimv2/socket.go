package shimv2

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// socketDir is where containerd's shims have their sockets, whatever containerd's own state folder is.
const socketDir = "/run/containerd/s"

const unixScheme = "unix://"

// dialTimeout is generous: a listening unix socket takes a connection at once or never.
const dialTimeout = 2 * time.Second

// socketAddress is the address of a sandbox's shim, made from what containerd, CRI-O and Kata make it from. Every
// container of the pod finds its shim by it.
func socketAddress(o options, sandboxID string) string {
	if o.socket != "" {
		return unixScheme + strings.TrimPrefix(o.socket, unixScheme)
	}
	sum := sha256.Sum256([]byte(filepath.Join(o.address, o.namespace, sandboxID)))
	return fmt.Sprintf("%s%s/%x", unixScheme, socketDir, sum)
}

// socketPath is the file of an address.
func socketPath(address string) string { return strings.TrimPrefix(address, unixScheme) }

// answers tells whether somebody listens at the address. The file of a dead shim's socket stays; nobody listens at it.
func answers(address string) bool {
	conn, err := net.DialTimeout("unix", socketPath(address), dialTimeout)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// listen makes the socket, over that of a dead shim if there is one. errRunning says that a live shim has it.
func listen(address string) (*net.UnixListener, error) {
	path := socketPath(address)
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, fmt.Errorf("folder of the shim's socket: %w", err)
	}
	l, err := listenAt(path)
	if !errors.Is(err, syscall.EADDRINUSE) {
		return l, err
	}
	if answers(address) {
		return nil, errRunning
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the socket of a dead shim: %w", err)
	}
	return listenAt(path)
}

var errRunning = errors.New("a shim is running already")

func listenAt(path string) (*net.UnixListener, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make the shim's socket: %w", err)
	}
	// The daemon inherits the socket; this process's closing it must not take the file away.
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close(), os.Remove(path))
	}
	return l, nil
}
