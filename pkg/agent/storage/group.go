package storage

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

// Bits that a group's access needs, as kubelet sets them on volumes that the
// host mounts.
const (
	groupFile = 0o660
	groupDir  = 0o110 | unix.S_ISGID // beside those for files
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
//
// No container can have the volume yet, so what is looked at stays what it is.
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
		matches, err := rootMatches(root, gid)
		if err != nil || matches {
			return err
		}
	}
	// The root folder last: as long as it is not changed the work is not done,
	// and OnRootMismatch does it again after a crash.
	c := groupChange{gid: gid}
	err = walk(ctx, root, c.one)
	if err == nil {
		err = c.one(int(root.Fd()), ".")
	}
	if err != nil {
		return fmt.Errorf("hand the volume to group %d: %w", gid, err)
	}
	return nil
}

func rootMatches(root *os.File, gid uint32) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &st); err != nil {
		return false, err
	}
	const want = groupFile | groupDir
	return st.Gid == gid && st.Mode&want == want, nil
}

type groupChange struct{ gid uint32 }

// one changes one file or folder, if there is something to change: a walk that
// finds everything done is much faster than one that does it.
func (c groupChange) one(at int, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "stat", Path: name, Err: err}
	}
	changed := st.Gid != c.gid
	if changed {
		if err := unix.Fchownat(at, name, -1, int(c.gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return &os.PathError{Op: "change the group of", Path: name, Err: err}
		}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil
	}
	mode := st.Mode&0o7777 | groupFile
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		mode |= groupDir
	}
	// A change of group takes the set-user-id bits of a file with it.
	if lost := changed && st.Mode&(unix.S_ISUID|unix.S_ISGID) != 0; mode == st.Mode&0o7777 && !lost {
		return nil
	}
	if err := unix.Fchmodat(at, name, mode, 0); err != nil {
		return &os.PathError{Op: "change the mode of", Path: name, Err: err}
	}
	return nil
}
