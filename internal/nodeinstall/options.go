package nodeinstall

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"time"

	"github.com/katadirect/katadirect/internal/nodeinstall/criconf"
	"github.com/katadirect/katadirect/internal/nodeinstall/hostfs"
	"github.com/katadirect/katadirect/internal/nodeinstall/kubenode"
	"github.com/katadirect/katadirect/internal/nodeinstall/restart"
)

var (
	// ErrRefused is returned when nothing has been changed, because a file of the node is not understood, or the node
	// lacks something.
	ErrRefused = criconf.ErrRefused
	// ErrInUse is returned when pods run that need what would be removed. It is not removed.
	ErrInUse = errors.New("pods of this runtime are running")
	// ErrTakenBack is returned when the container runtime did not come up with the change, and has its old
	// configuration again.
	ErrTakenBack = errors.New("the container runtime did not come up with the change, which was taken back")
)

// Options say what is installed where. The zero value of every field but HostRoot, BinDir and GuestDir is usable.
type Options struct {
	// HostRoot is where the host's root is mounted.
	HostRoot string
	// BinDir has the shim and katadirect, GuestDir has vmlinux, initrd and image.json. Both are this program's own paths.
	BinDir, GuestDir string
	// Version is the release; "" is "dev".
	Version string
	// Handler is the runtime handler's name; "" is "katadirect".
	Handler string
	// Prefix is the folder of the versions on the host; "" is /opt/katadirect.
	Prefix string
	// SettingsDir is the administrator's folder of drop-ins on the host; "" is /etc/katadirect/config.d.
	SettingsDir string
	// ToolLink is where a link to the tool is put on the host; "" is /usr/local/bin/katadirect and "none" no link.
	ToolLink string
	// QEMU and Virtiofsd are programs of the host; "" looks for them in the usual places.
	QEMU, Virtiofsd string

	// Runtime is the container runtime; "" finds it out. Config, DropIn and Socket override its usual places on the
	// host, Program names the containerd that tries a configuration out.
	Runtime                         Kind
	Config, DropIn, Socket, Program string
	// Restart restarts the runtime; nil is systemd.
	Restart restart.Restarter
	// WaitTimeout bounds the wait for the runtime to answer after a restart; 0 is two minutes.
	WaitTimeout time.Duration

	// Node is told how it is; nil is nobody.
	Node *kubenode.Node
	// DryRun changes nothing.
	DryRun bool
	// LeaveInUse uninstalls what it can while pods run.
	LeaveInUse bool
	// ProcDir is the host's /proc, as this program sees it; "" is that of HostRoot.
	ProcDir string
	// Step is hostfs.Root.Step.
	Step func(string)
	// Log receives one line for each change. May be nil.
	Log *slog.Logger
}

func (o Options) withDefaults() (Options, error) {
	o.Version = cmp.Or(o.Version, "dev")
	o.Handler = cmp.Or(o.Handler, "katadirect")
	o.Prefix = cmp.Or(o.Prefix, "/opt/katadirect")
	o.SettingsDir = cmp.Or(o.SettingsDir, "/etc/katadirect/config.d")
	o.ToolLink = cmp.Or(o.ToolLink, "/usr/local/bin/katadirect")
	o.WaitTimeout = cmp.Or(o.WaitTimeout, 2*time.Minute)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	for name, p := range map[string]*string{"prefix": &o.Prefix, "settings": &o.SettingsDir} {
		if *p = path.Clean(*p); !path.IsAbs(*p) || *p == "/" {
			return o, fmt.Errorf("%s %q: want an absolute path of the host", name, *p)
		}
	}
	return o, o.handler().Check()
}

// handler is what the container runtime is told. It names the link, so that a new version needs no restart.
func (o Options) handler() criconf.Handler {
	return criconf.Handler{
		Name: o.Handler, Shim: path.Join(o.current(), "bin", shimName), ConfigPath: path.Join(o.current(), configName),
	}
}

func (o Options) current() string           { return path.Join(o.Prefix, "current") }
func (o Options) previous() string          { return path.Join(o.Prefix, "previous") }
func (o Options) versions() string          { return path.Join(o.Prefix, "versions") }
func (o Options) version(key string) string { return path.Join(o.versions(), key) }
func (o Options) restartPending() string    { return path.Join(o.Prefix, "restart-pending") }

// lockFile is held by whoever changes the node. It goes with the host's next boot.
const lockFile = "/run/katadirect/install.lock"

// node is one host at work.
type node struct {
	Options
	root    *hostfs.Root
	runtime Runtime
}
