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

// release detaches the loop devices of raw block volumes, which outlive their pods where kubelet has not ended them: kubelet's
// own, which stands on the driver's, and then the driver's. The search for leftovers does not see them: their backing files
// are not below the lab's folder, as the host has it.
const release = `
disk=$(mountpoint -d "$0") || exit 0
for device in $(losetup -n -O NAME,BACK-MAJ:MIN | awk -v disk="$disk" '$2 == disk {print $1}'); do
	node=$(stat -c %i "$device")
	for above in $(losetup -n -O NAME,BACK-INO,BACK-MAJ:MIN | awk -v node="$node" -v dev="$(mountpoint -d /dev)" '$2 == node && $3 == dev {print $1}'); do
		losetup -d "$above" || :
	done
	losetup -d "$device" || :
done
`

// releaseLoops lets go of the volumes that are raw block devices on the host.
func (n *node) releaseLoops(ctx context.Context) error {
	return n.command(ctx, "bash", "-c", release, poolDir)
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
