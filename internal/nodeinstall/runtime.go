package nodeinstall

import (
	"context"
	"fmt"
	"path"
	"strings"

	"github.com/katadirect/katadirect/internal/nodeinstall/cristatus"
	"github.com/katadirect/katadirect/internal/nodeinstall/restart"
)

// Kind is a kind of container runtime, or of what brings one along.
type Kind string

// The kinds that are known.
const (
	Containerd Kind = "containerd"
	K3s        Kind = "k3s"
	RKE2       Kind = "rke2"
	CRIO       Kind = "crio"
)

// Kinds are all of them.
var Kinds = []Kind{Containerd, K3s, RKE2, CRIO}

// Runtime is where a container runtime has its things on the host.
type Runtime struct {
	Kind    Kind
	Config  string // what it reads, or, for k3s and RKE2, what they have made for it
	DropIn  string
	Socket  string
	Program string // that can try out a configuration; "" if none was found
	Units   []string
}

const dropInName = "50-katadirect.toml"

var usual = map[Kind]Runtime{
	Containerd: {
		Config: "/etc/containerd/config.toml", DropIn: "/etc/containerd/conf.d/" + dropInName,
		Socket: "/run/containerd/containerd.sock", Units: []string{"containerd.service"},
	},
	K3s:  rancher("k3s", "k3s.service", "k3s-agent.service"),
	RKE2: rancher("rke2", "rke2-server.service", "rke2-agent.service"),
	CRIO: {
		Config: "/etc/crio/crio.conf", DropIn: "/etc/crio/crio.conf.d/50-katadirect.conf",
		Socket: "/run/crio/crio.sock", Units: []string{"crio.service"},
	},
}

// rancher is k3s or RKE2, which run a containerd of their own with a configuration of their making.
func rancher(name string, units ...string) Runtime {
	return Runtime{
		Config: "/var/lib/rancher/" + name + "/agent/etc/containerd/config.toml",
		Socket: "/run/k3s/containerd/containerd.sock", Units: units,
	}
}

// refuse says that nothing was changed, and why.
func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, args...))
}

// findRuntime finds out which runtime the node has, and where.
func (n *node) findRuntime(ctx context.Context) error {
	kind := n.Options.Runtime
	if kind == "" {
		var err error
		if kind, err = n.detect(ctx); err != nil {
			return err
		}
	}
	r, known := usual[kind]
	if !known {
		return fmt.Errorf("runtime %q: want one of %v", kind, Kinds)
	}
	r.Kind = kind
	for _, o := range []struct {
		given string
		place *string
	}{{n.Config, &r.Config}, {n.DropIn, &r.DropIn}, {n.Socket, &r.Socket}} {
		if o.given == "" {
			continue
		}
		if !path.IsAbs(o.given) {
			return fmt.Errorf("path %q: want an absolute path of the host", o.given)
		}
		*o.place = path.Clean(o.given)
	}
	r.Program = n.findProgram(n.Options.Program, "/usr/bin/containerd", "/usr/local/bin/containerd", "/usr/sbin/containerd", "/opt/containerd/bin/containerd")
	n.runtime = r
	if n.Options.Restart == nil {
		n.Options.Restart = restart.Systemd{
			Units: r.Units, Own: n.root.Path("/run/systemd/private"), Bus: n.root.Path("/run/dbus/system_bus_socket"),
		}
	}
	return nil
}

// detect goes by what kubelet has told Kubernetes, or else by whose socket is there.
func (n *node) detect(ctx context.Context) (Kind, error) {
	if n.Node != nil {
		says, err := n.Node.Runtime(ctx)
		if err != nil {
			return "", err
		}
		switch {
		case strings.HasPrefix(says, "cri-o://"):
			return CRIO, nil
		case strings.HasPrefix(says, "containerd://") && strings.Contains(says, "-k3s"):
			return n.whichRancher()
		case strings.HasPrefix(says, "containerd://"):
			return Containerd, nil
		}
		return "", refuse("the node's container runtime is %q, which is neither containerd nor CRI-O", says)
	}
	var found []Kind
	for _, kind := range []Kind{Containerd, CRIO} {
		if n.root.Exists(usual[kind].Socket) {
			found = append(found, kind)
		}
	}
	if n.root.Exists(usual[K3s].Socket) {
		kind, err := n.whichRancher()
		if err != nil {
			return "", err
		}
		found = append(found, kind)
	}
	switch len(found) {
	case 0:
		return "", refuse("no container runtime's socket is in its usual place; say which runtime runs pods here with --runtime")
	case 1:
		return found[0], nil
	}
	return "", refuse("there are several container runtimes: %v; say which one runs pods here with --runtime", found)
}

func (n *node) whichRancher() (Kind, error) {
	k3s, rke2 := n.root.Exists(usual[K3s].Config), n.root.Exists(usual[RKE2].Config)
	switch {
	case k3s && rke2:
		return "", refuse("there are configurations of k3s and of RKE2; say which one runs here with --runtime")
	case rke2:
		return RKE2, nil
	}
	return K3s, nil
}

// findProgram is the first of the host's programs that is there: the given one, or else one in a usual place.
func (n *node) findProgram(given string, places ...string) string {
	if given != "" {
		return given
	}
	for _, place := range places {
		if n.root.Executable(place) {
			return place
		}
	}
	return ""
}

// findMachine finds QEMU and virtiofsd, which the node must have: they are tied to its libraries.
func (n *node) findMachine() error {
	n.QEMU = n.findProgram(n.QEMU, "/usr/bin/qemu-system-x86_64", "/usr/local/bin/qemu-system-x86_64", "/usr/libexec/qemu-kvm", "/opt/kata/bin/qemu-system-x86_64")
	n.Virtiofsd = n.findProgram(n.Virtiofsd, "/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd", "/usr/lib/virtiofsd", "/usr/bin/virtiofsd", "/opt/kata/libexec/virtiofsd")
	for name, program := range map[string]string{"QEMU": n.QEMU, "virtiofsd": n.Virtiofsd} {
		if program == "" || !n.root.Executable(program) {
			return refuse("the node has no %s (%q), which pods' machines need; install it there (Debian 12: apt-get install qemu-system-x86; others have a package virtiofsd too), or name it with a flag", name, program)
		}
	}
	return nil
}

// ask asks the running runtime what it is.
func (n *node) ask(ctx context.Context) (cristatus.Status, error) {
	return cristatus.Ask(ctx, n.root.Path(n.runtime.Socket))
}

func describe(kind Kind, s cristatus.Status) string {
	if s.Name == "" {
		return string(kind)
	}
	return fmt.Sprintf("%s (%s %s)", kind, s.Name, s.Version)
}
