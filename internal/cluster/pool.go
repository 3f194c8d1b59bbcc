package cluster

import (
	"cmp"
	"context"
	"errors"
	"os"
	"os/exec"

	"github.com/katadirect/katadirect/internal/lab"
)

// DefaultPoolBytes is what volumes may be promised in all. The disk must have only what is written to them.
const DefaultPoolBytes = 64 << 30

// poolDir is where the driver has its pool.
const poolDir = "/var/lib/katadirect/pool"

func (n *node) poolImage() string { return n.path("pool.xfs") }

// Pool is the folder of the first node's volumes, from the outside.
func (c *Cluster) Pool() string { return c.PoolOf(nodeName) }

// PoolOf is the folder of a node's volumes, from the outside.
func (c *Cluster) PoolOf(node string) string { return c.Node(node).Path(poolDir) }

// makePool gives the volumes a file system of their own, with reflinks, as documents advise: then nobody else fills it,
// and snapshots copy nothing. The loop device goes with the mount, and that with the lab.
func (n *node) makePool(ctx context.Context) error {
	image := n.poolImage()
	err := errors.Join(os.WriteFile(image, nil, 0o600),
		os.Truncate(image, cmp.Or(n.cluster.opts.PoolBytes, DefaultPoolBytes)), os.MkdirAll(n.path("katadirect", "pool"), 0o700))
	if err != nil {
		return err
	}
	if err := n.command(ctx, "mkfs.xfs", "-q", image); err != nil {
		return err
	}
	return n.mountPool(ctx)
}

func (n *node) mountPool(ctx context.Context) error {
	return n.command(ctx, "mount", "-o", "loop", n.poolImage(), poolDir)
}

// command runs one of the system's programs in the node's namespaces.
func (n *node) command(ctx context.Context, name string, args ...string) error {
	program, err := exec.LookPath(name)
	if err != nil {
		return err
	}
	_, err = n.lab.Run(ctx, lab.Command{Name: name, Path: program, Args: args})
	return err
}
