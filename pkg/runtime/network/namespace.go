package network

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/netns"
)

var (
	// ErrNoNamespace is returned for a path at which there is no network namespace (any more).
	ErrNoNamespace = errors.New("no network namespace")
	// ErrHostNetwork is returned for a pod that was given the host's own network. Its interfaces cannot go into a
	// machine: the host would lose them.
	ErrHostNetwork = errors.New("host networking requested, a virtual machine cannot have it")
)

// namespace is an open network namespace.
type namespace struct {
	file *os.File
	links
}

// links are netlink's calls in one namespace.
type links struct{ *netlink.Handle }

// openNamespace opens the namespace at path, which must not be the one this process is in.
func openNamespace(path string) (_ *namespace, err error) {
	file, err := openNamespaceFile(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close())
		}
	}()
	if own, err := isOwn(file); err != nil {
		return nil, err
	} else if own {
		return nil, fmt.Errorf("%w: %s is the host's network namespace", ErrHostNetwork, path)
	}
	handle, err := netlink.NewHandleAt(vnetns.NsHandle(file.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("enter network namespace %s: %w", path, err)
	}
	return &namespace{file, links{handle}}, nil
}

// openNamespaceFile opens what is at path if it is a network namespace. A pipe or a device is not even opened.
func openNamespaceFile(path string) (*os.File, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return nil, fmt.Errorf("%w at %s: %w", ErrNoNamespace, path, err)
	}
	if fs.Type != unix.NSFS_MAGIC {
		return nil, fmt.Errorf("%w at %s: what is there is no namespace", ErrNoNamespace, path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w at %s: %w", ErrNoNamespace, path, err)
	}
	kind, err := unix.IoctlRetInt(int(file.Fd()), unix.NS_GET_NSTYPE)
	if err == nil && kind == unix.CLONE_NEWNET {
		return file, nil
	}
	return nil, errors.Join(fmt.Errorf("%w at %s: it is another kind of namespace", ErrNoNamespace, path), err, file.Close())
}

func isOwn(file *os.File) (bool, error) {
	info, err := file.Stat()
	if err != nil {
		return false, err
	}
	own, err := os.Stat("/proc/thread-self/ns/net")
	return err == nil && os.SameFile(info, own), err
}

// do calls f on a thread in the namespace, for what goes by the caller's namespace and not by a descriptor.
func (n *namespace) do(f func() error) error { return netns.Do(n.file, f) }

func (n *namespace) close() error {
	n.Handle.Close()
	return n.file.Close()
}
