package loop

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const controlPath = "/dev/loop-control"

// maxBindTries bounds how often another process may be faster in taking the number that the kernel called free.
const maxBindTries = 100

// bind gives the image a free loop device, with everything about it in one step: a device that can be seen has its
// name, so a driver that dies here leaves either nothing or what Sweep recognises.
func (d *Devices) bind(ctx context.Context, image string, file *os.File, readOnly bool) (Device, error) {
	control, err := os.OpenFile(controlPath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return Device{}, fmt.Errorf("%w (the kernel's loop module, and the host's /dev, are needed)", err)
	}
	defer control.Close()
	for range maxBindTries {
		if err := ctx.Err(); err != nil {
			return Device{}, err
		}
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return Device{}, fmt.Errorf("ask for a free loop device: %w", err)
		}
		b, err := d.configure(number, image, file, readOnly)
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENXIO) { // somebody has it already, or is taking it away
			continue
		}
		if err != nil {
			return Device{}, err
		}
		defer b.close()
		d.remember(image, number)
		if b.status.Flags&unix.LO_FLAGS_DIRECT_IO == 0 {
			d.log.InfoContext(ctx, "a loop device without direct I/O: what is read and written stays in the host's memory too",
				"device", b.path(), "image", image, "why", whyBuffered(b.fd()))
		}
		return b.device(), nil
	}
	return Device{}, fmt.Errorf("%w: every free one was taken by somebody else", unix.EBUSY)
}

func (d *Devices) configure(number int, image string, file *os.File, readOnly bool) (*bound, error) {
	node, err := openNode(number, unix.O_RDWR)
	if err != nil {
		return nil, err
	}
	config := unix.LoopConfig{Fd: uint32(file.Fd()), Size: sectorBytes}
	config.Info.Flags = unix.LO_FLAGS_DIRECT_IO
	if readOnly {
		config.Info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	copy(config.Info.File_name[:maxMarkBytes], d.nameOf(image))
	if err := unix.IoctlLoopConfigure(int(node.Fd()), &config); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", node.Name(), err), node.Close())
	}
	status, err := unix.IoctlLoopGetStatus64(int(node.Fd()))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", node.Name(), err), node.Close())
	}
	b := &bound{number: number, node: node, status: status}
	if !readOnly { // whoever had the device before may have left it read-only, which a new file does not change
		if err := b.setReadOnly(false); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: make it writable: %w", node.Name(), err), b.detach(context.Background()))
		}
	}
	return b, nil
}

// whyBuffered asks for direct I/O once more, since LOOP_CONFIGURE does without in silence.
func whyBuffered(fd int) error {
	err := unix.IoctlSetInt(fd, unix.LOOP_SET_DIRECT_IO, 1)
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("the image's file system cannot do direct I/O in sectors of %d bytes", sectorBytes)
	}
	return err
}
