package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// loop is a loop device that has a backing file.
type loop struct {
	device  string // its node, /dev/loopN
	backing string // the file's path, as the kernel tells it
	number  uint64 // the device's
	fileOn  uint64 // the number of the device whose file system has the backing file
	inode   uint64 // the backing file's
	fileIs  uint64 // the number of the device that the backing file is, if it is one
}

func (l loop) String() string { return fmt.Sprintf("loop device %s of %s", l.device, l.backing) }

// standsOn says whether the backing file of l is below itself, or in a file system on it.
func (l loop) standsOn(below loop) bool {
	return below.number != 0 && (l.fileOn == below.number || l.fileIs == below.number)
}

// loopsOf lists the loop devices whose backing file is wanted, and then those that stand on them: a volume that is a raw
// block device is a file in a pool that is mounted from one, and kubelet puts another on the volume's.
func loopsOf(wanted func(backing string) bool) (found []loop, err error) {
	rest, err := loops()
	if err != nil {
		return nil, err
	}
	for before := -1; before < len(found); {
		before = len(found)
		rest = slices.DeleteFunc(rest, func(l loop) bool {
			ours := wanted(l.backing) || slices.ContainsFunc(found, l.standsOn)
			if ours {
				found = append(found, l)
			}
			return ours
		})
	}
	return found, nil
}

// loopsBelow lists the loop devices of the files in a folder, and those that stand on them.
func loopsBelow(dir string) ([]loop, error) {
	return loopsOf(func(backing string) bool { return isBelow(backing, dir) })
}

// loops lists all that have a backing file. Of one that cannot be asked, such as a stranger's whose file is on a host that has
// gone, only the path is known.
func loops() (all []loop, err error) {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		backing, err := os.ReadFile(file)
		if err != nil {
			continue // detached since
		}
		l := loop{
			device:  "/dev/" + filepath.Base(filepath.Dir(filepath.Dir(file))),
			backing: strings.TrimSuffix(strings.TrimSpace(string(backing)), " (deleted)"),
		}
		if node, err := os.Open(l.device); err == nil {
			_ = l.ask(node)
			node.Close()
		}
		all = append(all, l)
	}
	return all, nil
}

// ask asks the device for what its folder in sysfs does not tell.
func (l *loop) ask(node *os.File) error {
	info, err := unix.IoctlLoopGetStatus64(int(node.Fd()))
	if err != nil {
		return err
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(node.Fd()), &stat); err != nil {
		return err
	}
	l.number, l.fileOn, l.inode, l.fileIs = stat.Rdev, info.Device, info.Inode, info.Rdevice
	return nil
}

// DetachLoops has the kernel let go of the lab's loop devices: those of raw block volumes outlive a pod that nobody ended as
// kubelet does. What is mounted stays until it is not any more.
func (l *Lab) DetachLoops() error { return detachLoopsBelow(l.Dir) }

// detachLoopsBelow begins with the uppermost: who has a device below it keeps that.
func detachLoopsBelow(dir string) error {
	if dir == "" {
		return nil // every path is below it
	}
	all, err := loopsBelow(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, one := range slices.Backward(all) {
		if err := one.detach(); err != nil {
			errs = append(errs, fmt.Errorf("detach %v: %w", one, err))
		}
	}
	return errors.Join(errs...)
}

// detach leaves the device alone if it has got another file since it was listed: while it is open here, it keeps its file.
func (l loop) detach() error {
	node, err := os.Open(l.device)
	if err != nil {
		return err
	}
	defer node.Close()
	now := l
	switch err := now.ask(node); {
	case errors.Is(err, unix.ENXIO):
		return nil
	case err != nil:
		return err
	case l.number == 0:
		return errors.New("it did not say which file it has when it was listed")
	case now != l:
		return nil
	}
	if err := unix.IoctlSetInt(int(node.Fd()), unix.LOOP_CLR_FD, 0); err != nil && !errors.Is(err, unix.ENXIO) {
		return err
	}
	return nil
}
