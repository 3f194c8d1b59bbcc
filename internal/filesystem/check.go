package filesystem

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/mkfs"
)

// e2fsck's exit status is a set of bits.
const (
	fsckFixed  = 1
	fsckReboot = 2 // means nothing for a file system that is not the root
)

// Checker checks file systems before they are mounted.
type Checker struct {
	Tools Tools
	// Now is the time, for checks that are due by date; nil is time.Now.
	Now func() time.Time
}

// Check runs fsck where one is due, and returns what fsck had to repair, ""
// for nothing. xfs and btrfs replay their logs when they are mounted and have
// no other check that is safe to run unasked.
//
// ext says itself when it wants to be checked: after an error, after a crash
// (its journal waits to be replayed), or when its owner set a number of mounts
// or a time after which it is due. e2fsck -p then repairs only what is safe to
// repair; ErrDamaged says that this was not enough, and ErrBusy that somebody
// has the device, as a mount in another namespace has: e2fsck refuses it then,
// and the superblock of any mounted file system says that it was not unmounted.
func (c Checker) Check(ctx context.Context, node, fstype string) (repaired string, err error) {
	switch fstype {
	case "ext2", "ext3", "ext4":
	default:
		return "", nil
	}
	why, err := c.extDue(node)
	if err != nil || why == "" {
		return "", err
	}
	if inUse(node) {
		return "", fmt.Errorf("check %s (%s): %w", node, why, ErrBusy)
	}
	output, status, err := c.Tools.run(ctx, "e2fsck", "-p", node)
	if err != nil {
		return "", fmt.Errorf("check %s (%s): %w", node, why, err)
	}
	switch {
	case status == 0:
		return "", nil
	case status&^(fsckFixed|fsckReboot) == 0:
		return mkfs.OneLine(output), nil
	case inUse(node): // since then
		return "", fmt.Errorf("check %s (%s): %w: %s", node, why, ErrBusy, mkfs.OneLine(output))
	}
	return "", fmt.Errorf("%w: %s (%s): e2fsck -p ended with status %d; its data is untouched, and needs a person to "+
		"run e2fsck: %s", ErrDamaged, node, why, status, mkfs.OneLine(output))
}

// inUse says whether somebody has the device for himself: a mount, in whatever
// namespace, or a program that checks or formats it.
func inUse(node string) bool {
	f, err := os.OpenFile(node, os.O_RDONLY|os.O_EXCL, 0)
	if err == nil {
		f.Close()
	}
	return errors.Is(err, unix.EBUSY)
}

// extDue says why the ext file system on a device is due for a check, "" if it
// is not.
func (c Checker) extDue(node string) (string, error) {
	f, err := os.Open(node)
	if err != nil {
		return "", fmt.Errorf("look whether a check is due: %w", err)
	}
	defer f.Close()
	super, err := readArea(f, area{extSuperblock, extSuperblockSize})
	if err != nil {
		return "", fmt.Errorf("look whether %s is due for a check: %w", node, err)
	}
	now := time.Now
	if c.Now != nil {
		now = c.Now
	}
	return extCheckReason(super, now()), nil
}

func extCheckReason(super []byte, now time.Time) string {
	u16 := func(at int) uint16 { return binary.LittleEndian.Uint16(super[at:]) }
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(super[at:]) }

	state := u16(extState)
	switch {
	case state&extStateErrors != 0:
		return "the kernel has found errors in it"
	case state&extStateClean == 0:
		return "it was not unmounted cleanly"
	case u32(extFeatureIncompat)&extIncompatRecover != 0:
		return "its journal has not been replayed"
	}
	if most := int16(u16(extMaxMountCount)); most > 0 && int(u16(extMountCount)) >= int(most) {
		return fmt.Sprintf("it was mounted %d times since the last check", u16(extMountCount))
	}
	last, interval := int64(u32(extLastCheck)), int64(u32(extCheckInterval))
	if interval > 0 && now.Unix() >= last+interval {
		return "its last check was on " + time.Unix(last, 0).UTC().Format(time.DateOnly)
	}
	return ""
}
