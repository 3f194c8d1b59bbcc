package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"time"

	"github.com/katadirect/katadirect/internal/fsgroup"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

// handedOver is a volume that was handed to a group for somebody who no longer
// waits.
type handedOver struct {
	sequence uint64 // of the disk: another one in its place has another
	group    uint32
}

// handOver hands a volume that was just mounted to a group. A large volume
// takes longer than a shim waits; so the work goes on without the caller, and
// the next one, who asks for the same, finds it done. Only the sandbox's end
// cuts it short: ending is done then.
func (m *Mounts) handOver(ctx, ending context.Context, v *Volume, group *agentproto.FSGroup) error {
	done := handedOver{group: group.GetGroupId()}
	done.sequence, _ = v.disk.Sequence() // 0 where the kernel does not count disks
	m.mu.Lock()
	earlier, ok := m.handed[v.mountPoint]
	delete(m.handed, v.mountPoint) // whoever gets the volume now may change it
	m.mu.Unlock()
	if ok && earlier == done && done.sequence != 0 {
		return nil
	}
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ending, cancel)
	defer stop()
	if m.handing != nil {
		m.handing(work)
	}
	begin := time.Now()
	if err := applyGroup(work, v.mountPoint, group, v.readOnly); err != nil {
		return err
	}
	if ctx.Err() == nil {
		return nil
	}
	slog.Warn("the volume was handed to its group after the shim had given up; the next attempt finds it done",
		"mount_point", v.mountPoint, "group", done.group, "took", time.Since(begin))
	m.mu.Lock()
	if m.handed == nil {
		m.handed = make(map[string]handedOver)
	}
	m.handed[v.mountPoint] = done
	m.mu.Unlock()
	return ctx.Err()
}

// applyGroup hands the volume mounted at path to a group. With
// OnRootMismatch nothing is done where the root folder is as it should be.
// Owners are left alone, and symbolic links are neither followed nor changed
// in mode.
func applyGroup(ctx context.Context, path string, group *agentproto.FSGroup, readOnly bool) error {
	if readOnly {
		slog.Info("the volume is read-only, and stays as it is", "mount_point", path, "group", group.GetGroupId())
		return nil
	}
	gid := group.GetGroupId()
	if gid > math.MaxInt32 {
		return fmt.Errorf("%w: group %d", ErrRequest, gid)
	}
	root, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("hand the volume to group %d: %w", gid, err)
	}
	defer root.Close()
	if group.GetGroupChangePolicy() == agentproto.FSGroupChangePolicy_OnRootMismatch {
		matches, err := fsgroup.Matches(root, gid)
		if err != nil || matches {
			return err
		}
	}
	// The root folder comes last: as long as it is not changed the work is not done, and OnRootMismatch does it again
	// after a crash.
	err = fsgroup.Apply(ctx, root, gid)
	if errors.Is(err, fsgroup.ErrTooDeep) {
		err = fmt.Errorf("%w: %w", ErrRequest, err)
	}
	if err != nil {
		return fmt.Errorf("hand the volume to group %d: %w", gid, err)
	}
	return nil
}
