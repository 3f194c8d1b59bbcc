package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/katadirect/katadirect/internal/guestimage"
	"github.com/katadirect/katadirect/internal/lab"
)

// Names of the two handlers. Handler is also what the RuntimeClass "kata" stands for.
const (
	Handler     = "katadirect"
	RuncHandler = "runc"
)

// Addresses inside the cluster's network. It is not connected to any other, so they can always be the same.
const (
	nodeName     = "node"
	nodeIP       = "10.64.0.1"
	apiAddress   = "127.0.0.1:6443"
	apiInside    = nodeIP + ":6443" // from every node
	registryAddr = nodeIP + ":5000"
	serviceCIDR  = "10.96.0.0/16"
	apiServiceIP = "10.96.0.1"
	dnsServiceIP = "10.96.0.10"
	podCIDR      = "10.244.0.0/16" // see podCIDROf
)

// ErrNoPrograms is returned when Kubernetes' programs are not in the cache.
var ErrNoPrograms = errors.New(`kubernetes is not in the cache: run "make kubernetes" first`)

// Options say what cluster to run.
type Options struct {
	// BinDir holds csi-node and containerd-shim-katadirect-v2.
	BinDir string
	// Guest is what machines boot.
	Guest guestimage.Image
	// Cache is where "make kubernetes" and "make containerd2" put their programs; "" is lab.DefaultCache.
	Cache string
	// DefaultHandler is the handler of pods without a RuntimeClass; "" is RuncHandler.
	DefaultHandler string
	// Images are what the registry has, by name. PauseImage must be one of them.
	Images map[string]v1.Image
	// DebugConsole lets "katadirect exec" into the machines. Guest needs a shell for it.
	DebugConsole bool
	// WithoutDriver leaves the driver out.
	WithoutDriver bool
	// PoolBytes is how large the file system is that the volumes are in; 0 is DefaultPoolBytes.
	PoolBytes int64
	// Progress, if not nil, is told in a few words what has been done.
	Progress func(string)
}

// PauseImage is what every pod begins with: Kubernetes' own name for it.
const PauseImage = "registry.k8s.io/pause:3.10.1"

// Cluster is a running cluster.
type Cluster struct {
	nodes    []*node
	lab      *lab.Lab // the first node's, where the control plane is
	opts     Options
	programs string
	pki      *pki
	settings *hostSettings
	forward  net.Listener
	registry net.Listener // in the cluster's network
	outside  net.Listener // the same on the host's loopback, to push
	made     chan madeImages
	serving  sync.WaitGroup
}

// Open starts everything and returns when pods can be scheduled and volumes provisioned. It undoes everything on error.
func Open(ctx context.Context, opts Options) (_ *Cluster, err error) {
	if opts.Cache == "" {
		opts.Cache = lab.DefaultCache()
	}
	if opts.Progress == nil {
		opts.Progress = func(string) {}
	}
	c := &Cluster{opts: opts}
	if c.programs, err = Programs(opts.Cache); err != nil {
		return nil, err
	}
	if c.settings, err = keepSettings(settingsRoot, settingsFile, sharedDirs...); err != nil {
		return nil, fmt.Errorf("remember the host's settings: %w", errors.Join(err, c.settings.restore()))
	}
	first, err := c.openNode(ctx, 0)
	if err != nil {
		return nil, errors.Join(err, c.settings.restore())
	}
	c.lab = first.lab
	defer func() {
		if err != nil {
			_, closeErr := c.Close(context.WithoutCancel(ctx))
			err = errors.Join(err, closeErr)
		}
	}()
	opts.Progress("containerd runs")
	if !opts.WithoutDriver {
		c.makeImages(ctx)
	}
	for _, step := range []struct {
		done string
		do   func(context.Context) error
	}{
		{"", first.prepare},
		{"the registry has its images", c.serveImages},
		{"the API answers", c.startControlPlane},
		{"", c.forwardAPI},
		{"", first.start},
		{"", c.createSnapshotKinds},
		{"", first.makePool},
		{"the node is ready", func(ctx context.Context) error { return c.waitReady(ctx, first) }},
		{"the CSI driver runs", c.installDriver},
	} {
		if err := step.do(ctx); err != nil {
			return nil, err
		}
		if step.done != "" {
			opts.Progress(step.done)
		}
	}
	return c, nil
}

// Programs is the folder of the newest Kubernetes in the cache that was built to its end.
func Programs(cache string) (string, error) {
	found, _ := filepath.Glob(filepath.Join(cache, "kubernetes", "v*", ".complete"))
	if len(found) == 0 {
		return "", fmt.Errorf("%w (looked below %s)", ErrNoPrograms, filepath.Join(cache, "kubernetes"))
	}
	return filepath.Dir(found[len(found)-1]), nil
}

// Program is the path of one of Kubernetes' programs.
func (c *Cluster) Program(name string) string { return filepath.Join(c.programs, name) }

// Dir is where everything of the cluster is kept, logs and the run's files. It goes with the cluster.
func (c *Cluster) Dir() string { return c.lab.Dir }

// InitPID is the process id of the first process in the cluster's namespaces: lab.Enter takes it.
func (c *Cluster) InitPID() int { return c.lab.InitPID() }

// path is a file below Dir.
func (c *Cluster) path(elem ...string) string {
	return filepath.Join(append([]string{c.lab.Dir}, elem...)...)
}

// shimConfig is Kata's configuration.toml with what differs from its defaults: small machines, our guest, patience where
// many boot at once by emulation, and a kind of network interface that a privileged pod of Kubernetes' suite makes.
func shimConfig(opts Options) string {
	return fmt.Sprintf(`[hypervisor.qemu]
kernel = %q
initrd = %q
default_memory = 256
default_vcpus = 1

[agent.kata]
dial_timeout = 120
kernel_modules = ["dummy numdummies=0"]
debug_console_enabled = %t
`, opts.Guest.Kernel, opts.Guest.Initrd, opts.DebugConsole)
}

// Close removes the pods, ends every process and puts the host's settings back. It returns what
// has outlived it, which is a fault.
func (c *Cluster) Close(ctx context.Context) (leftovers []string, err error) {
	var errs []error
	for _, l := range []net.Listener{c.forward, c.registry, c.outside} {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	errs = append(errs, each(c.nodes, func(n *node) error { return n.removePods(ctx) }))
	c.killControlPlane()
	for _, n := range slices.Backward(c.nodes) {
		left, err := n.lab.Discard(ctx)
		leftovers, errs = append(leftovers, left...), append(errs, err)
	}
	errs = append(errs, c.settings.restore())
	c.serving.Wait()
	return leftovers, errors.Join(errs...)
}

// each does something for all nodes at once.
func each(nodes []*node, do func(*node) error) error {
	errs := make([]error, len(nodes))
	var all sync.WaitGroup
	for i, n := range nodes {
		all.Go(func() { errs[i] = do(n) })
	}
	all.Wait()
	return errors.Join(errs...)
}
