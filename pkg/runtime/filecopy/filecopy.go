// Package filecopy gives a guest copies of the host's files where there is no file share (shared_fs = "none"): by the
// agent protocol's CopyFile, in Kata's places. What is small and read reaches the guest so, as configMaps, secrets and
// the files that kubelet makes for each container; what would have to be the same on both sides is refused.
//
// The sandbox calls it in the place of pkg/runtime/share, and with the same words. What a mount means to a container
// must never move in here.
package filecopy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/types"
	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/child"
	"github.com/katadirect/katadirect/pkg/runtime/share"
)

// Limits of what is copied for one mount: a configMap or a secret has at most 1 MiB, a projected volume several of them.
const (
	MaxEntries = 1024
	MaxBytes   = 4 << 20
)

// ErrNoShare is returned for what a copy cannot stand in for.
var ErrNoShare = errors.New(`cannot be given to the guest without a file share (shared_fs = "none")`)

// interval is how often a folder is looked at again, as the agent looks at what it mirrors.
const interval = 2 * time.Second

// Guest takes the copies.
type Guest interface {
	CopyFile(context.Context, *agentproto.CopyFileRequest) (*agentproto.Empty, error)
}

// Copies are those of one sandbox. Its methods may be called from several goroutines; those of one container come one
// after the other.
type Copies struct {
	guest func() Guest
	log   *slog.Logger
	every time.Duration

	ctx       context.Context
	end       context.CancelFunc
	following sync.WaitGroup

	mu         sync.Mutex
	containers map[string][]context.CancelFunc // what follows folders for them
}

// New makes copies for the guest, which is asked for only when there is something to copy.
func New(guest func() Guest, log *slog.Logger) *Copies {
	c := &Copies{guest: guest, log: log, every: interval, containers: make(map[string][]context.CancelFunc)}
	c.ctx, c.end = context.WithCancel(context.Background())
	return c
}

// MountPoint is where the guest mounts the root file system of a container.
func (c *Copies) MountPoint(container string) (guestPath string, err error) {
	return path.Join(share.GuestDir, container), nil
}

// Rootfs refuses a root file system that is no disk.
func (c *Copies) Rootfs(context.Context, string, string, []*types.Mount) (string, error) {
	return "", fmt.Errorf("a root file system in a folder of the host %w: use a snapshotter that keeps them on block "+
		"devices or in image files, such as containerd's blockfile and devmapper", ErrNoShare)
}

// SandboxMount refuses.
func (c *Copies) SandboxMount(_ context.Context, source string) error {
	return fmt.Errorf("sandbox_bind_mounts: %s %w", source, ErrNoShare)
}

// Bind copies a file, or a folder that the container only reads, and returns where the guest has the copy. A folder is
// followed from then on; the copy of a file stays as it is, because a container has that very file mounted.
func (c *Copies) Bind(ctx context.Context, container, source, destination string, readOnly bool) (guestPath string, err error) {
	info, err := os.Stat(source)
	if err != nil {
		return "", err
	}
	guestPath = path.Join(share.GuestDir, share.UniqueName(container, destination))
	switch {
	case info.Mode().IsRegular():
		err = c.file(ctx, source, guestPath)
	case !info.IsDir():
		err = fmt.Errorf("%s, a %s, %w", source, info.Mode().Type(), ErrNoShare)
	case !readOnly:
		err = fmt.Errorf("%s, a folder that the container may write to, %w", source, ErrNoShare)
	default:
		err = c.folder(ctx, container, source, guestPath)
	}
	if err != nil {
		return "", fmt.Errorf("copy %s to the guest: %w", source, err)
	}
	return guestPath, nil
}

func (c *Copies) file(ctx context.Context, source, guestPath string) error {
	f, err := os.OpenFile(source, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	e, err := entryOf(info)
	if err != nil {
		return err
	}
	data, err := read(f, MaxBytes)
	if err != nil {
		return err
	}
	return send(ctx, c.guest(), guestPath, e, data)
}

// folder copies a folder and has it followed.
func (c *Copies) folder(ctx context.Context, container, source, guestPath string) error {
	root, err := os.OpenRoot(source)
	if err != nil {
		return err
	}
	f := &follower{root: root, guest: c.guest(), to: guestPath, log: c.log}
	if err := f.copyWhole(ctx); err != nil {
		return errors.Join(err, root.Close())
	}
	life, end := context.WithCancel(c.ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.containers[container] = append(c.containers[container], end)
	c.following.Go(func() {
		defer root.Close()
		f.follow(life, c.every)
	})
	return nil
}

// Release ends the following for a container. The agent takes its copies away with it.
func (c *Copies) Release(_ context.Context, container string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, end := range c.containers[container] {
		end()
	}
	delete(c.containers, container)
	return nil
}

// Close ends all of it. A folder whose file system does not answer (a server that is away) is not waited for longer than
// ctx: its end is tried again by the next Close.
func (c *Copies) Close(ctx context.Context) error {
	c.end()
	ended := make(chan struct{})
	go func() {
		c.following.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("end what follows the folders that were copied to the guest: %w", context.Cause(ctx))
	}
}

// Daemon is no process: nothing serves.
func (c *Copies) Daemon() child.Process { return child.Process{} }

// Done is never closed: there is nothing that could end by itself.
func (c *Copies) Done() <-chan struct{} { return nil }

// Err is nil.
func (c *Copies) Err() error { return nil }

// entry is what of a file, folder or link is not its content. Two that are equal have the same content.
type entry struct {
	mode     uint32 // st_mode
	uid, gid uint32
	// For files: what tells one content from another.
	inode       uint64
	size, mtime int64
	link        string
}

func entryOf(info fs.FileInfo) (entry, error) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return entry{}, fmt.Errorf("%s: no owner", info.Name())
	}
	e := entry{mode: st.Mode, uid: st.Uid, gid: st.Gid}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.inode, e.size, e.mtime = st.Ino, st.Size, info.ModTime().UnixNano()
	case unix.S_IFDIR, unix.S_IFLNK:
	default:
		return e, fmt.Errorf("%s, a %s, %w", info.Name(), info.Mode().Type(), ErrNoShare)
	}
	return e, nil
}
