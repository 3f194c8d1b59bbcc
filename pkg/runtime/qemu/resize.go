package qemu

import (
	"context"
	"fmt"

	"github.com/katadirect/katadirect/pkg/runtime/qmp"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

const sectorBytes = 512

// ResizeDisk implements vm.Machine. The size is rounded up to whole sectors. A regular file grows with the disk; a
// block device must have grown before.
func (m *Machine) ResizeDisk(ctx context.Context, id string, sizeBytes int64) (err error) {
	defer wrap(&err, "resize disk %s to %d bytes", id, sizeBytes)
	run, err := m.control()
	if err != nil {
		return err
	}
	disk, err := m.disks.acquire(ctx, id)
	if err != nil {
		return err
	}
	if disk == nil {
		return vm.ErrNotFound
	}
	defer disk.release()
	if disk.copying() {
		return vm.ErrCopying
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commandTimeout)
	defer cancel()
	return m.explain(grow(ctx, run.qmp, disk, (sizeBytes+sectorBytes-1)/sectorBytes*sectorBytes))
}

// grow makes the disk larger. QEMU would make it smaller just as readily, and cut the file system's end off; nothing
// but the comparison here keeps it from that.
func grow(ctx context.Context, client *qmp.Client, d *disk, size int64) error {
	seen, err := nodeSize(ctx, client, d.node())
	if err != nil {
		return err
	}
	// The file may have grown already without QEMU's knowledge.
	file, err := d.backing.fileSize()
	if err != nil {
		return err
	}
	if present := max(seen, file); size < present {
		return fmt.Errorf("%w: it has %d bytes", vm.ErrShrink, present)
	}
	if size == seen {
		return nil
	}
	if err := client.Run(ctx, "block_resize", map[string]any{"node-name": d.node(), "size": size}, nil); err != nil {
		return err
	}
	if seen, err = nodeSize(ctx, client, d.node()); err != nil {
		return err
	}
	if seen < size {
		return fmt.Errorf("it has only %d bytes afterwards", seen)
	}
	return nil
}

// nodeSize is the size of a block node as the guest sees it, in bytes.
func nodeSize(ctx context.Context, client *qmp.Client, node string) (int64, error) {
	var nodes []struct {
		Name  string `json:"node-name"`
		Image struct {
			Size int64 `json:"virtual-size"`
		} `json:"image"`
	}
	if err := client.Run(ctx, "query-named-block-nodes", map[string]any{"flat": true}, &nodes); err != nil {
		return 0, err
	}
	for _, n := range nodes {
		if n.Name == node {
			return n.Image.Size, nil
		}
	}
	return 0, fmt.Errorf("QEMU has no block node %s", node)
}
