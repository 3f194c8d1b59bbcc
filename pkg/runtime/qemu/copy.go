package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/runtime/qmp"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// Prefixes of block nodes, before the disk's id.
const (
	copyPrefix  = "copy-"  // the target, and of the job
	guardPrefix = "guard-" // the filter between the guest and its disk
	pastPrefix  = "past-"  // the disk as it was
)

// diskCopy is a disk as it was at one moment, copied into a file in the background:
//
//	guest ──▶ guard ──▶ disk        before the guest overwrites what is not copied yet, guard copies that first
//	            │ ▲
//	            ▼ │
//	         target ◀── job ◀── past, which reads through guard what was there: from the target, or from the disk
//
// A target that fails breaks the past: the job ends with an error, and the guest, whose disk is well, notices nothing.
// That is why the filter is ours. The one that QEMU's job would bring along fails the guest's write.
type diskCopy struct {
	client *qmp.Client
	disk   *disk
	fdset  int
	size   int64
	ended  *qmp.Subscription

	done chan struct{}
	err  error // written before done is closed
}

func (d *disk) copyName() string  { return copyPrefix + d.id }
func (d *disk) guardName() string { return guardPrefix + d.id }
func (d *disk) pastName() string  { return pastPrefix + d.id }

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

// start begins the copy. When it fails, what it has made is taken back here or, if QEMU is slow, by and by; until then
// the disk counts as being copied.
func (c *diskCopy) start(ctx context.Context, m *Machine, target string) (err error) {
	if c.size, err = nodeSize(ctx, c.client, c.disk.node()); err != nil {
		return err
	}
	file, err := openTarget(target, c.size)
	if err != nil {
		return err
	}
	defer file.Close() // QEMU has its own
	c.ended = c.client.Subscribe(1, func(e qmp.Event) bool {
		var data struct{ Device string }
		return (e.Name == "BLOCK_JOB_COMPLETED" || e.Name == "BLOCK_JOB_CANCELLED") && e.Decode(&data) == nil && data.Device == c.disk.copyName()
	})
	c.disk.copy = c
	err = c.begin(ctx, m, file)
	if err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commandTimeout)
	defer cancel()
	failed := c.abandon(ctx)
	if failed == nil {
		failed = c.takeDown(ctx)
	}
	if failed == nil || errors.Is(failed, qmp.ErrClosed) {
		c.finish(nil)
		return err
	}
	go func() { c.finish(c.takeDownAtLast(true)) }()
	return errors.Join(err, failed)
}

// begin has QEMU do the steps. From the answer to qom-set on the copy is of this moment.
func (c *diskCopy) begin(ctx context.Context, m *Machine, file *os.File) error {
	if err := c.client.RunWithFile(ctx, file, "add-fd", map[string]any{"fdset-id": c.fdset}, nil); err != nil {
		return err
	}
	for _, s := range []struct {
		command   string
		arguments map[string]any
	}{
		{"blockdev-add", m.targetNode(c)},
		{"blockdev-add", map[string]any{"driver": "copy-before-write", "node-name": c.disk.guardName(),
			"file": c.disk.node(), "target": c.disk.copyName(), "on-cbw-error": "break-snapshot"}},
		{"qom-set", c.disk.drive("value", c.disk.guardName())},
		{"blockdev-add", map[string]any{"driver": "snapshot-access", "node-name": c.disk.pastName(), "file": c.disk.guardName()}},
		{"blockdev-backup", map[string]any{
			"job-id": c.disk.copyName(), "device": c.disk.pastName(), "target": c.disk.copyName(), "sync": "full",
		}},
	} {
		if err := c.client.Run(ctx, s.command, s.arguments, nil); err != nil {
			return err
		}
	}
	return nil
}

// drive are the arguments of a question or an order about which block node the guest's device has.
func (d *disk) drive(more ...string) map[string]any {
	arguments := map[string]any{"path": d.backend(), "property": "drive"}
	for i := 0; i < len(more); i += 2 {
		arguments[more[i]] = more[i+1]
	}
	return arguments
}

// takeDown takes back what begin has made, of which some may not be there. The past goes first: the guest cannot leave
// the guard before.
func (c *diskCopy) takeDown(ctx context.Context) error {
	if err := c.dropNode(ctx, c.disk.pastName()); err != nil {
		return err
	}
	var refusal *qmp.CommandError
	var node string
	err := c.client.Run(ctx, "qom-get", c.disk.drive(), &node)
	switch {
	case errors.As(err, &refusal): // the device has gone
		err = nil
	case err == nil && node == c.disk.guardName(): // QEMU 7.2 aborts when a device is given the node that it has
		err = c.client.Run(ctx, "qom-set", c.disk.drive("value", c.disk.node()), nil)
	}
	if err != nil {
		return err
	}
	for _, node := range []string{c.disk.guardName(), c.disk.copyName()} {
		if err := c.dropNode(ctx, node); err != nil { // this writes out what QEMU still has of the copy
			return err
		}
	}
	err = c.client.Run(ctx, "remove-fd", map[string]any{"fdset-id": c.fdset}, nil)
	if errors.As(err, &refusal) {
		return nil
	}
	return err
}

// dropNode is deleteNode for one that may not be there.
func (c *diskCopy) dropNode(ctx context.Context, node string) error {
	err := deleteNode(ctx, c.client, node)
	var refusal *qmp.CommandError
	if errors.As(err, &refusal) && strings.HasPrefix(refusal.Description, "Failed to find node") {
		return nil
	}
	return err
}

// takeDownAtLast is takeDown for a QEMU whose storage may not answer for a long time: it tries until it is done or the
// machine has ended. The error is the last try's.
func (c *diskCopy) takeDownAtLast(abandon bool) error {
	for {
		ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
		var err error
		if abandon {
			err = c.abandon(ctx)
		}
		if err == nil {
			err = c.takeDown(ctx)
		}
		cancel()
		if err == nil || errors.Is(err, qmp.ErrClosed) {
			return err
		}
		time.Sleep(takeDownPause)
	}
}

// takeDownPause is between two tries to take a copy's nodes away.
const takeDownPause = time.Second

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

// attend waits for the job's end and takes the nodes and the file back.
func (c *diskCopy) attend() {
	event, err := c.ended.Next(context.Background())
	if err != nil { // QEMU took all with it
		c.finish(fmt.Errorf("%w: the machine ended before it", vm.ErrCopyEnded))
		return
	}
	var data struct{ Error string }
	switch {
	case event.Decode(&data) != nil || data.Error != "":
		err = fmt.Errorf("%w: QEMU says: %s", vm.ErrCopyEnded, data.Error)
	case event.Name == "BLOCK_JOB_CANCELLED":
		err = fmt.Errorf("%w: it was cancelled", vm.ErrCopyEnded)
	}
	if closeErr := c.takeDownAtLast(false); err == nil && closeErr != nil {
		err = fmt.Errorf("%w: its file could not be closed: %w", vm.ErrCopyEnded, closeErr)
	}
	c.finish(err)
}

// finish says that QEMU has nothing of the copy any more.
func (c *diskCopy) finish(err error) {
	c.err = err
	c.ended.Close()
	close(c.done)
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
