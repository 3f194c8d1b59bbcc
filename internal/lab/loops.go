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
	on      uint64 // the number of the device whose file system has the backing file
	is      uint64 // the number of the device that the backing file is, if it is one
}

func (l loop) String() string { return fmt.Sprintf("loop device %s of %s", l.device, l.backing) }

// standsOn says whether the backing file of l is below itself, or in a file system on it.
func (l loop) standsOn(below loop) bool { return l.on == below.number || l.is == below.number }

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
			is := wanted(l.backing) || slices.ContainsFunc(found, l.standsOn)
			if is {
				found = append(found, l)
			}
			return is
		})
	}
	return found, nil
}

// loopsBelow lists the loop devices of the files in a folder, and those that stand on them.
func loopsBelow(dir string) ([]loop, error) {
	return loopsOf(func(backing string) bool { return isBelow(backing, dir) })
}

// loops lists all that have a backing file.
func loops() (all []loop, err error) {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		l, err := readLoop(file)
		switch {
		case errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO):
			continue // detached since
		case err != nil:
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

// readLoop asks the device itself for what its folder in sysfs does not tell.
func readLoop(backingFile string) (loop, error) {
	backing, err := os.ReadFile(backingFile)
	if err != nil {
		return loop{}, err
	}
	node, err := os.Open("/dev/" + filepath.Base(filepath.Dir(filepath.Dir(backingFile))))
	if err != nil {
		return loop{}, err
	}
	defer node.Close()
	info, err := unix.IoctlLoopGetStatus64(int(node.Fd()))
	if err != nil {
		return loop{}, fmt.Errorf("%s: %w", node.Name(), err)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(node.Fd()), &stat); err != nil {
		return loop{}, err
	}
	path := strings.TrimSuffix(strings.TrimSpace(string(backing)), " (deleted)")
	return loop{device: node.Name(), backing: path, number: stat.Rdev, on: info.Device, is: info.Rdevice}, nil
}

// DetachLoops has the kernel let go of the lab's loop devices: those of raw block volumes outlive a pod that nobody ended as
// kubelet does. What is mounted stays until it is not any more.
func (l *Lab) DetachLoops() error { return detachLoopsBelow(l.Dir) }

// detachLoopsBelow begins with the uppermost: who has a device below it keeps that.
func detachLoopsBelow(dir string) error {
	all, err := loopsBelow(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, one := range slices.Backward(all) {
		errs = append(errs, one.detach())
	}
	return errors.Join(errs...)
}

func (l loop) detach() error {
	node, err := os.Open(l.device)
	if err != nil {
		return err
	}
	defer node.Close()
	if err := unix.IoctlSetInt(int(node.Fd()), unix.LOOP_CLR_FD, 0); err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("detach %v: %w", l, err)
	}
	return nil
}
