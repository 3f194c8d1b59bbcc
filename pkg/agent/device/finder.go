package device

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Finder finds devices by address. It may be used by several goroutines.
type Finder struct {
	// Events wakes the waits.
	Events *Events
	// Sys and Dev are where sysfs and devtmpfs are mounted; "" stands for
	// /sys and /dev.
	Sys, Dev string
}

func (f *Finder) sys(elements ...string) string { return under(f.Sys, "/sys", elements) }
func (f *Finder) dev(elements ...string) string { return under(f.Dev, "/dev", elements) }

func under(root, fallback string, elements []string) string {
	if root == "" {
		root = fallback
	}
	return filepath.Join(append([]string{root}, elements...)...)
}

// DiskByPCIPath waits until ctx ends for the virtio disk at p.
func (f *Finder) DiskByPCIPath(ctx context.Context, p PCIPath) (Disk, error) {
	disk, err := f.waitForDisk(ctx, func() (string, error) { return f.onPCI(p, "block") })
	if err != nil {
		return Disk{}, fmt.Errorf("disk at PCI path %s: %w", p, err)
	}
	return disk, nil
}

// NetByPCIPath waits until ctx ends for the virtio network card at p, and
// returns its interface's name.
func (f *Finder) NetByPCIPath(ctx context.Context, p PCIPath) (string, error) {
	var name string
	err := f.Events.Until(ctx, func() (bool, error) {
		dir, err := f.onPCI(p, "net")
		name = filepath.Base(dir)
		return dir != "", err
	})
	if err != nil {
		return "", fmt.Errorf("network card at PCI path %s: %w", p, err)
	}
	return name, nil
}

// DiskBySCSI asks the controllers to look at the address, and waits until ctx
// ends for the disk there.
func (f *Finder) DiskBySCSI(ctx context.Context, a SCSIAddress) (Disk, error) {
	f.scanSCSI(a)
	disk, err := f.waitForDisk(ctx, func() (string, error) {
		return f.one(f.sys("class/scsi_device", fmt.Sprintf("*:0:%d:%d", a.ID, a.LUN), "device/block/*"))
	})
	if err != nil {
		return Disk{}, fmt.Errorf("disk at SCSI address %s: %w", a, err)
	}
	return disk, nil
}

// scanSCSI tells every controller to look for a. One that cannot is not an
// error here: the disk not appearing is.
func (f *Finder) scanSCSI(a SCSIAddress) {
	hosts, _ := filepath.Glob(f.sys("class/scsi_host/host*/scan"))
	for _, scan := range hosts {
		_ = os.WriteFile(scan, fmt.Appendf(nil, "0 %d %d", a.ID, a.LUN), 0o200)
	}
}

// DiskByNode waits until ctx ends for a device node such as /dev/vdb.
func (f *Finder) DiskByNode(ctx context.Context, node string) (Disk, error) {
	name := strings.TrimPrefix(filepath.Clean(node), f.dev()+"/")
	if !filepath.IsAbs(node) || strings.Contains(name, "/") || name == "" {
		return Disk{}, fmt.Errorf("device node %q: %w", node, ErrAddress)
	}
	disk, err := f.waitForDisk(ctx, func() (string, error) { return f.existing(f.sys("class/block", name)) })
	if err != nil {
		return Disk{}, fmt.Errorf("device node %s: %w", node, err)
	}
	return disk, nil
}

// waitForDisk waits until locate names the disk's folder in sysfs and its node
// is there too.
func (f *Finder) waitForDisk(ctx context.Context, locate func() (string, error)) (Disk, error) {
	var disk Disk
	err := f.Events.Until(ctx, func() (bool, error) {
		dir, err := locate()
		if err != nil || dir == "" {
			return false, err
		}
		disk = Disk{Name: filepath.Base(dir), Node: f.dev(filepath.Base(dir)), dir: dir, events: f.Events}
		var st unix.Stat_t
		if err := unix.Stat(disk.Node, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
			return false, nil // devtmpfs follows sysfs
		}
		disk.Major, disk.Minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
		return opens(disk.Node)
	})
	return disk, err
}

// opens says whether the kernel has put a disk behind the node yet: sysfs and
// devtmpfs show it a moment before, the event comes after.
func opens(node string) (bool, error) {
	f, err := os.OpenFile(node, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENXIO) || errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, f.Close()
}

// onPCI returns the folder in sysfs of the one thing of that class below the
// virtio device at p, or "" while it is not there.
func (f *Finder) onPCI(p PCIPath, class string) (string, error) {
	if len(p.Slots) == 0 {
		return "", ErrAddress
	}
	dir := f.sys("devices", fmt.Sprintf("pci0000:%02x", p.Root))
	for _, slot := range p.Slots {
		// The slot is unique below its bridge; the bus number in between is
		// the guest's affair.
		next, err := f.one(filepath.Join(dir, "[0-9a-f][0-9a-f][0-9a-f][0-9a-f]:[0-9a-f][0-9a-f]:"+slot.String()))
		if err != nil || next == "" {
			return "", err
		}
		dir = next
	}
	return f.one(filepath.Join(dir, "virtio*", class, "*"))
}

// one returns the single match of a pattern, "" for none, and an error for
// several, which no address can mean.
func (f *Finder) one(pattern string) (string, error) {
	matches, err := filepath.Glob(pattern)
	if err != nil {
		return "", err
	}
	switch len(matches) {
	case 0:
		return "", nil
	case 1:
		return matches[0], nil
	}
	return "", fmt.Errorf("%w: ambiguous: %s", ErrAddress, strings.Join(matches, ", "))
}

func (f *Finder) existing(path string) (string, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return path, err
}
