package kubelet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/katadirect/katadirect/internal/guestimage"
	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// Handler is the name under which containerd knows the shim, as RuntimeClass objects would say it.
const Handler = "kata"

// Untrusted is the name under which containerd looks for the runtime of a pod that is annotated with
// "io.kubernetes.cri.untrusted-workload".
const Untrusted = "untrusted"

// Options say what node to make.
type Options struct {
	// Containerd is which containerd to run; "" is Debian's.
	Containerd lab.Flavour
	// BinDir holds csi-node and containerd-shim-katadirect-v2.
	BinDir string
	// Image is what guests boot.
	Image guestimage.Image
	// Config is added to the shim's configuration.toml.
	Config string
	// Pool is where the driver keeps volumes; "" is a folder of the lab's.
	Pool string
	// Cache is where containerd is; "" is lab.DefaultCache.
	Cache string
}

// Node is one node of a cluster that has no other part. Its methods may be called from several goroutines.
type Node struct {
	// Lab is where everything runs.
	Lab *lab.Lab

	opts       Options
	driver     *lab.Process
	conn       *grpc.ClientConn
	controller csi.ControllerClient
	node       csi.NodeClient
}

// driverStartTimeout bounds the driver's start on a busy machine.
const driverStartTimeout = time.Minute

// Open starts containerd and the CSI driver and returns when both are ready. It undoes everything on error.
func Open(ctx context.Context, opts Options) (_ *Node, err error) {
	n := &Node{opts: opts}
	n.Lab, err = lab.Open(ctx, lab.Options{
		Containerd: opts.Containerd,
		Cache:      opts.Cache,
		BinDir:     opts.BinDir,
		Handlers: []lab.Handler{
			{Name: Handler, RuntimeType: "io.containerd.katadirect.v2", Config: shimConfig(opts.Image) + opts.Config},
			{Name: Untrusted, RuntimeType: "io.containerd.katadirect.v2", Config: shimConfig(opts.Image) + opts.Config},
		},
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_, closeErr := n.Close(context.WithoutCancel(ctx))
			err = errors.Join(err, closeErr)
		}
	}()
	n.Lab.Watch(n.pool(), ".lock")
	n.Lab.Watch(n.root())
	n.Lab.Watch(n.driverDir())
	for _, dir := range []string{n.pool(), n.root(), n.driverDir()} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return nil, err
		}
	}
	n.conn, err = grpc.NewClient("unix://"+n.driverSocket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	n.controller, n.node = csi.NewControllerClient(n.conn), csi.NewNodeClient(n.conn)
	return n, n.StartDriver(ctx)
}

// shimConfig is Kata's configuration.toml with what differs from its defaults: small machines, and our guest.
func shimConfig(image guestimage.Image) string {
	return fmt.Sprintf(`[hypervisor.qemu]
kernel = %q
initrd = %q
default_memory = 256
default_vcpus = 1
`, image.Kernel, image.Initrd)
}

// Close stops the driver and containerd and ends everything. It returns what the run has left behind.
func (n *Node) Close(ctx context.Context) (leftovers []string, err error) {
	if n.conn != nil {
		err = n.conn.Close()
	}
	leftovers, closeErr := n.Lab.Close(ctx)
	return leftovers, errors.Join(err, closeErr)
}

// pool is where the driver keeps volumes.
func (n *Node) pool() string { return cmp.Or(n.opts.Pool, filepath.Join(n.Lab.Dir, "pool")) }

// root stands for /var/lib/kubelet.
func (n *Node) root() string { return filepath.Join(n.Lab.Dir, "kubelet") }

// driverDir is where the driver has its socket and keeps what is staged.
func (n *Node) driverDir() string { return filepath.Join(n.Lab.Dir, "csi") }

func (n *Node) driverSocket() string { return filepath.Join(n.driverDir(), "csi.sock") }

// StartDriver starts csi-node, for the first time or after it was killed, and returns when it is ready.
func (n *Node) StartDriver(ctx context.Context) (err error) {
	n.driver, err = n.Lab.Start(lab.Command{
		Name: "csi-node",
		Path: filepath.Join(n.opts.BinDir, "csi-node"),
		Args: []string{
			"--endpoint", "unix://" + n.driverSocket(), "--node-id", "lab", "--pool", n.pool(),
			"--state-dir", filepath.Join(n.driverDir(), "staged"),
		},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, driverStartTimeout)
	defer cancel()
	return n.driver.WaitFor(ctx, func(ctx context.Context) error {
		n.conn.ResetConnectBackoff()
		answer, err := csi.NewIdentityClient(n.conn).Probe(ctx, &csi.ProbeRequest{})
		if err == nil && answer.GetReady() != nil && !answer.GetReady().GetValue() {
			err = errors.New("the driver says that it is not ready")
		}
		return err
	})
}

// Driver is the csi-node that runs, or has run.
func (n *Node) Driver() *lab.Process { return n.driver }

// Records is the store of the direct volumes' records as the lab has it.
func (n *Node) Records() *directvolume.Store {
	return directvolume.NewStore(n.Lab.Path(directvolume.DefaultRoot))
}

// Metrics returns the metrics of the pod's shim, in Prometheus' text format.
func (n *Node) Metrics(ctx context.Context, pod *lab.Pod) (text []byte, err error) {
	err = n.Manage(pod, func(c *directvolume.Client) error {
		text, err = c.Metrics(ctx)
		return err
	})
	return text, err
}

// Manage calls do with a client of the management socket of the pod's shim.
func (n *Node) Manage(pod *lab.Pod, do func(*directvolume.Client) error) error {
	// The path of a socket may have 107 bytes; by way of the folder's descriptor it is short enough.
	dir, err := os.Open(n.Lab.Path(directvolume.DefaultGoDir))
	if err != nil {
		return err
	}
	defer dir.Close()
	sandboxes := directvolume.Sandboxes{GoDir: fmt.Sprintf("/proc/self/fd/%d", dir.Fd())}
	return do(directvolume.NewClient(pod.ID, directvolume.WithClientSandboxes(sandboxes)))
}
