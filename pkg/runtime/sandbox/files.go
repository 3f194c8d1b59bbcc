package sandbox

import (
	"context"

	"github.com/containerd/containerd/api/types"

	"github.com/katadirect/katadirect/internal/rollback"
	"github.com/katadirect/katadirect/pkg/runtime/child"
	"github.com/katadirect/katadirect/pkg/runtime/config"
	"github.com/katadirect/katadirect/pkg/runtime/filecopy"
	"github.com/katadirect/katadirect/pkg/runtime/share"
)

// files is how the host's files reach the guest: a file share, or copies. Paths of the host go in, those of the guest
// come out; see share.Share.
type files interface {
	MountPoint(container string) (guestPath string, err error)
	Rootfs(ctx context.Context, container, path string, mounts []*types.Mount) (guestPath string, err error)
	Bind(ctx context.Context, container, source, destination string, readOnly bool) (guestPath string, err error)
	SandboxMount(ctx context.Context, source string) error
	Release(ctx context.Context, container string) error
	Close(ctx context.Context) error

	// Daemon is the process that serves files, Done closed when it has ended, which Err gives the reason for.
	Daemon() child.Process
	Done() <-chan struct{}
	Err() error
}

// copies says that there is no file share.
func (s *Sandbox) copies() bool { return s.config.Hypervisor.SharedFS == config.SharedNone }

func (s *Sandbox) startShare(ctx context.Context, _ Options, undo *rollback.Stack) (err error) {
	h := s.config.Hypervisor
	if s.copies() {
		s.share = filecopy.New(func() filecopy.Guest { return s.agent }, s.log)
	} else {
		shared, err := share.Start(ctx, share.Config{
			ID: s.id, Root: s.roots.Share, Socket: s.roots.shareSocket(s.id),
			Daemon: h.VirtiofsDaemon, Cache: h.VirtiofsCache, Args: h.VirtiofsArgs, Log: s.log,
		})
		if err != nil {
			return err
		}
		s.share = shared
	}
	undo.Push("end the file share", s.share.Close)
	for _, path := range s.config.Runtime.BindMounts {
		if err := s.share.SandboxMount(ctx, path); err != nil {
			return err
		}
	}
	if s.copies() {
		return nil
	}
	return s.state.setDaemon(s.share.Daemon())
}
