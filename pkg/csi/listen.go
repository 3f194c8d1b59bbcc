package csi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Listen opens the driver's endpoint, unix:///path or unix:/path or a plain absolute path. The socket is for this
// process's user alone: whoever can call the driver can delete volumes. A socket that a dead driver left is replaced,
// one that somebody serves is not.
func Listen(ctx context.Context, endpoint string) (net.Listener, error) {
	path, err := SocketPath(endpoint)
	if err != nil {
		return nil, err
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("make the endpoint's folder: %w", err)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("protect the endpoint: %w", err), listener.Close())
	}
	return listener, nil
}

// SocketPath is the path that an endpoint names, or ErrInvalidArgument.
func SocketPath(endpoint string) (string, error) {
	path := strings.TrimPrefix(endpoint, "unix:")
	if rest, found := strings.CutPrefix(path, "//"); found {
		path = rest
	}
	if !filepath.IsAbs(path) {
		return "", failf(ErrInvalidArgument, "the endpoint %q is not a unix socket; write unix:///absolute/path", endpoint)
	}
	return path, nil
}

func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at the endpoint: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("the endpoint %s is there and is not a socket", path)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err == nil {
		conn.Close()
		return fmt.Errorf("the endpoint %s is served by another process", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("look whether the endpoint is served: %w", err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove the endpoint that a dead driver left: %w", err)
	}
	return nil
}
