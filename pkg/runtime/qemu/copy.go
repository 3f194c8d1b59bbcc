package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/rollback"
	"github.com/katadirect/katadirect/pkg/runtime/qmp"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

const copyPrefix = "copy-" // of the job, and of the target's block node

// diskCopy is a backup job of QEMU: it copies all of a disk in the background, and before the guest overwrites
// something that is not copied yet, that first.
type diskCopy struct {
	client *qmp.Client
	disk   *disk
	fdset  int
	size   int64
	ended  *qmp.Subscription

	done chan struct{}
	err  error // written before done is closed
}

func (d *disk) copyName() string { return copyPrefix + d.id }

// CopyDisk implements vm.Machine.
func (m *Machine) CopyDisk(ctx context.Context, id, target string) (_ vm.DiskCopy, err error) {
	defer wrap(&err, "copy disk %s to %s", id, target)
	run, err := m.control()
	if err != nil {
		return nil, err
	}
	disk, err := m.disks.acquire(ctx, id)
	if err != nil {
		return nil, err
	}
	if disk == nil {
		return nil, vm.ErrNotFound
	}
	defer disk.release()
	if disk.copying() {
		return nil, fmt.Errorf("%w already", vm.ErrCopying)
	}
	// As with plugging: a command that was sent cannot be taken back.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commandTimeout)
	defer cancel()
	c := &diskCopy{client: run.qmp, disk: disk, fdset: m.disks.nextFDSet(), done: make(chan struct{})}
	if err := c.start(ctx, m, target); err != nil {
		return nil, m.explain(inUse(err))
	}
	disk.copy = c
	go c.attend() // until the job's end, or QEMU's
	return c, nil
}

// copying reports whether a copy is under way, to who is busy with the disk.
func (d *disk) copying() bool {
	if d.copy == nil {
		return false
	}
	select {
	case <-d.copy.done:
		return false
	default:
		return true
	}
}

func (c *diskCopy) start(ctx context.Context, m *Machine, target string) (err error) {
	if c.size, err = nodeSize(ctx, c.client, c.disk.node()); err != nil {
		return err
	}
	file, err := openTarget(target, c.size)
	if err != nil {
		return err
	}
	defer file.Close() // QEMU has its own
	var undo rollback.Stack
	defer undo.OnError(ctx, &err)
	fdset := map[string]any{"fdset-id": c.fdset}
	if err := c.client.RunWithFile(ctx, file, "add-fd", fdset, nil); err != nil {
		return err
	}
	undo.Push("take the copy's file back", func(ctx context.Context) error { return c.client.Run(ctx, "remove-fd", fdset, nil) })
	if err := c.client.Run(ctx, "blockdev-add", m.targetNode(c), nil); err != nil {
		return err
	}
	undo.Push("remove the copy's node", func(ctx context.Context) error { return deleteNode(ctx, c.client, c.disk.copyName()) })
	c.ended = c.client.Subscribe(1, func(e qmp.Event) bool {
		var data struct{ Device string }
		return (e.Name == "BLOCK_JOB_COMPLETED" || e.Name == "BLOCK_JOB_CANCELLED") && e.Decode(&data) == nil && data.Device == c.disk.copyName()
	})
	undo.Push("listen no more", func(context.Context) error { c.ended.Close(); return nil })
	// From QEMU's answer on the copy is of this moment.
	err = c.client.Run(ctx, "blockdev-backup", map[string]any{
		"job-id": c.disk.copyName(), "device": c.disk.node(), "target": c.disk.copyName(), "sync": "full",
	}, nil)
	var refusal *qmp.CommandError
	if err != nil && !errors.As(err, &refusal) { // without an answer it may have begun, and nobody would ever end it
		undo.Push("cancel the copy", c.abandon)
	}
	return err
}

// abandon ends a job that may have begun.
func (c *diskCopy) abandon(ctx context.Context) error {
	err := c.client.Run(ctx, "block-job-cancel", map[string]any{"device": c.disk.copyName(), "force": true}, nil)
	var refusal *qmp.CommandError
	if errors.As(err, &refusal) { // it has not, or is over
		return nil
	}
	if err == nil {
		_, err = c.ended.Next(ctx)
	}
	return err
}

// targetNode is the block node of the file, which has to be as long as the disk: QEMU refuses another length.
func (m *Machine) targetNode(c *diskCopy) map[string]any {
	file := map[string]any{
		"driver": "file", "filename": fmt.Sprintf("/dev/fdset/%d", c.fdset),
		"aio": m.cfg.BlockAIO, "discard": "unmap", "locking": "on",
	}
	node := map[string]any{"driver": "raw", "node-name": c.disk.copyName(), "size": c.size, "discard": "unmap", "file": file}
	if cache := m.cfg.cache(); cache != nil {
		file["cache"], node["cache"] = cache, cache
	}
	return node
}

// openTarget opens a regular file that somebody has made for a copy of so many bytes. No link is followed, wherever
// in the path: who has the socket is root, but what he names should be what he means.
func openTarget(path string, sizeBytes int64) (*os.File, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("path %q is not absolute", path)
	}
	how := unix.OpenHow{
		Flags:   unix.O_RDWR | unix.O_CLOEXEC | unix.O_NONBLOCK,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &how)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	file := os.NewFile(uintptr(fd), path)
	var stat unix.Stat_t
	err = unix.Fstat(fd, &stat)
	switch {
	case err != nil:
	case stat.Mode&unix.S_IFMT != unix.S_IFREG:
		err = fmt.Errorf("%s is not a regular file", path)
	case stat.Nlink != 1:
		err = fmt.Errorf("%s has other names too", path)
	case stat.Size < sizeBytes:
		err = fmt.Errorf("%s has %d bytes, the disk has %d", path, stat.Size, sizeBytes)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// attend waits for the job's end and takes the node and the file back.
func (c *diskCopy) attend() {
	defer close(c.done)
	defer c.ended.Close()
	event, err := c.ended.Next(context.Background())
	if err != nil { // QEMU took all with it
		c.err = fmt.Errorf("%w: the machine ended before it", vm.ErrCopyEnded)
		return
	}
	var data struct{ Error string }
	switch {
	case event.Decode(&data) != nil || data.Error != "":
		c.err = fmt.Errorf("%w: QEMU says: %s", vm.ErrCopyEnded, data.Error)
	case event.Name == "BLOCK_JOB_CANCELLED":
		c.err = fmt.Errorf("%w: it was cancelled", vm.ErrCopyEnded)
	}
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	err = deleteNode(ctx, c.client, c.disk.copyName()) // writes out what QEMU still has of it
	if err == nil {
		err = c.client.Run(ctx, "remove-fd", map[string]any{"fdset-id": c.fdset}, nil)
	}
	if err != nil && c.err == nil {
		c.err = fmt.Errorf("%w: its file could not be closed: %w", vm.ErrCopyEnded, err)
	}
}

// Done implements vm.DiskCopy.
func (c *diskCopy) Done() <-chan struct{} { return c.done }

// Err implements vm.DiskCopy.
func (c *diskCopy) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

// Progress implements vm.DiskCopy.
func (c *diskCopy) Progress(ctx context.Context) (copiedBytes, totalBytes int64, err error) {
	var jobs []struct {
		Device string `json:"device"`
		Offset int64  `json:"offset"`
		Length int64  `json:"len"`
	}
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	if err := c.client.Run(ctx, "query-block-jobs", nil, &jobs); err != nil {
		return 0, c.size, err
	}
	for _, j := range jobs {
		if j.Device == c.disk.copyName() {
			return j.Offset, j.Length, nil
		}
	}
	return c.size, c.size, nil // it has just ended
}

// Cancel implements vm.DiskCopy.
func (c *diskCopy) Cancel(ctx context.Context) error {
	err := c.client.Run(ctx, "block-job-cancel", map[string]any{"device": c.disk.copyName(), "force": true}, nil)
	var refusal *qmp.CommandError
	if err != nil && !errors.Is(err, qmp.ErrClosed) && !errors.As(err, &refusal) { // refused: it has ended by itself
		return err
	}
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
