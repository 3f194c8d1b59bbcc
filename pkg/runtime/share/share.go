package share

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"

	"github.com/katadirect/katadirect/internal/rollback"
	"github.com/katadirect/katadirect/pkg/runtime/child"
)

// Config says what to share and with which program.
type Config struct {
	// ID is the sandbox's id.
	ID string
	// Root holds one folder per sandbox; empty is DefaultRoot.
	Root string
	// Socket is where the hypervisor finds virtiofsd; at most 107 bytes, which the deep Root would not leave.
	Socket string
	// Daemon, Cache and Args are virtio_fs_daemon, virtio_fs_cache and virtio_fs_extra_args.
	Daemon, Cache string
	Args          []string
	Log           *slog.Logger
}

func (c Config) tree() tree { return treeOf(c.Root, c.ID) }

func treeOf(root, id string) tree {
	if root == "" {
		root = DefaultRoot
	}
	return tree{filepath.Join(root, id)}
}

// ErrName is returned for an id that cannot be a file name.
var ErrName = errors.New("cannot be a file name")

func checkName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") || len(name) > 200 {
		return fmt.Errorf("%q %w", name, ErrName)
	}
	return nil
}

// Share is one sandbox's share. Its methods may be called from several goroutines; those of one container come one
// after the other.
type Share struct {
	tree   tree
	daemon *daemon

	mu         sync.Mutex
	containers map[string][]place // by container, in the order they were made
	folders    map[folderID]*folder
}

// place is a path that is to be unmounted, and removed too if it was made here. One with a folder has other users too.
type place struct {
	path   string
	made   bool
	folder *folder
}

func (p place) release() error {
	if err := unmount(p.path); err != nil || !p.made {
		return err
	}
	return removeMountPoint(p.path)
}

// Start makes the tree and runs virtiofsd on it. What a crashed shim left under the same id is removed first: the
// caller holds the sandbox's lease, so nobody lives in it. On error nothing is left.
func Start(ctx context.Context, c Config) (s *Share, err error) {
	if err := checkName(c.ID); err != nil {
		return nil, fmt.Errorf("sandbox id %w", err)
	}
	var undo rollback.Stack
	defer undo.OnError(ctx, &err)

	t := c.tree()
	if err := t.remove(); err != nil {
		return nil, fmt.Errorf("remove an earlier shared folder: %w", err)
	}
	undo.Push("remove the shared folder", func(context.Context) error { return t.remove() })
	if err := t.prepare(); err != nil {
		return nil, fmt.Errorf("prepare the shared folder: %w", err)
	}
	d, err := startDaemon(ctx, c, t.shared())
	if err != nil {
		return nil, err
	}
	return &Share{tree: t, daemon: d, containers: make(map[string][]place), folders: make(map[folderID]*folder)}, nil
}

// Daemon names the running virtiofsd, for Cleanup by a later process.
func (s *Share) Daemon() child.Process { return s.daemon.Process }

// Done is closed when virtiofsd has ended. The machine cannot go on then: everything in it hangs on its files.
func (s *Share) Done() <-chan struct{} { return s.daemon.Done() }

// Err says why virtiofsd ended, once Done is closed.
func (s *Share) Err() error {
	select {
	case <-s.daemon.Done():
		return s.daemon.why()
	default:
		return nil
	}
}

// Bind shares a file or folder of the host with a container and returns where the guest finds it, which for a folder is
// the same for all containers. What is mounted below source is not shared. destination, the path in the container, only lends its last part to the name.
// It is an fs.ErrNotExist if there is no source.
func (s *Share) Bind(ctx context.Context, container, source, destination string, readOnly bool) (guestPath string, err error) {
	if err := checkName(container); err != nil {
		return "", fmt.Errorf("container id %w", err)
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	target, err := s.bind(container, source, UniqueName(container, destination), readOnly)
	if err != nil {
		return "", fmt.Errorf("share %s with the guest: %w", source, err)
	}
	return filepath.Join(GuestDir, filepath.Base(target)), nil
}

// baseName keeps the whole name within what a file system allows.
func baseName(destination string) string {
	base := filepath.Base(destination)
	if base == "/" || base == "." {
		return "root"
	}
	return base[:min(len(base), 40)]
}

func (s *Share) attach(container, source, target string, readOnly bool) error {
	c, err := newClone(source, readOnly)
	if err != nil {
		return err
	}
	s.remember(container, place{path: target, made: true})
	return c.attach(target)
}

func (s *Share) remember(container string, p place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.containers[container] = append(s.containers[container], p)
}

// Release takes away all that is shared with the container. It is idempotent; what fails is kept for the next call.
func (s *Share) Release(_ context.Context, container string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	places := s.containers[container]
	for len(places) > 0 {
		if err := s.release(places[len(places)-1]); err != nil {
			s.containers[container] = places
			return fmt.Errorf("stop sharing with container %s: %w", container, err)
		}
		places = places[:len(places)-1]
	}
	delete(s.containers, container)
	return nil
}

func (s *Share) release(p place) error {
	if p.folder != nil {
		return s.releaseFolder(p.folder)
	}
	return p.release()
}

// Close ends virtiofsd and takes everything away. It is idempotent.
func (s *Share) Close(ctx context.Context) error {
	failures := []error{s.daemon.stop(ctx)}
	s.mu.Lock()
	containers := make([]string, 0, len(s.containers))
	for c := range s.containers {
		containers = append(containers, c)
	}
	s.mu.Unlock()
	for _, c := range containers {
		failures = append(failures, s.Release(ctx, c))
	}
	return errors.Join(append(failures, s.tree.remove())...)
}

// Cleanup takes away what a dead shim's share left: the daemon if it still runs, the root file systems it mounted in
// the containers' bundles, and the tree. An unknown id is success.
func Cleanup(ctx context.Context, root, id string, d child.Process, rootfs []string) error {
	if err := checkName(id); err != nil {
		return fmt.Errorf("sandbox id %w", err)
	}
	failures := []error{d.Kill(ctx), treeOf(root, id).remove()}
	for _, path := range rootfs {
		failures = append(failures, unmount(path))
	}
	return errors.Join(failures...)
}
