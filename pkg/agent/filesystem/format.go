package filesystem

import (
	"bytes"
	"context"
	"fmt"
	"os"
)

// A maker is the command line of a mkfs program, without the device. None of
// them has a flag that overrides the program's own look for existing content,
// and none discards: the device is blank, and a discard would throw the mark
// of an unfinished format away.
type maker []string

// makers by file system type. ext's inode tables and journal are initialised
// by the kernel when it finds the time: written out at once they would fill a
// sparse backing file for nothing.
var makers = map[string]maker{
	"ext4":  {"mkfs.ext4", "-q", "-m", "0", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1"},
	"ext3":  {"mkfs.ext3", "-q", "-m", "0", "-E", "nodiscard,lazy_journal_init=1"},
	"xfs":   {"mkfs.xfs", "-q", "-K"},
	"btrfs": {"mkfs.btrfs", "-q", "-K"},
}

// ephemeralMaker makes the ext4 that Kata's create_filesystem option means:
// for data that no crash needs to spare.
var ephemeralMaker = maker{"mkfs.ext4", "-q", "-O", "^has_journal", "-m", "0", "-i", "163840", "-I", "128",
	"-E", "nodiscard,lazy_itable_init=1"}

// Formatter makes file systems.
type Formatter struct {
	Tools Tools
}

// Format makes a file system of that type on a device, if the device is blank
// or carries a format of this package that was never finished. Otherwise it
// changes nothing and returns ErrOccupied. With ephemeral the file system has
// no journal; it must be ext4.
func (f Formatter) Format(ctx context.Context, node, fstype string, ephemeral bool) error {
	m, ok := makers[fstype]
	if ephemeral {
		m, ok = ephemeralMaker, fstype == "ext4"
	}
	if !ok {
		return fmt.Errorf("format %s as %q: %w", node, fstype, ErrUnsupported)
	}
	// Exclusive: the kernel refuses if the device is mounted or part of
	// something.
	device, err := os.OpenFile(node, os.O_RDWR|os.O_EXCL, 0)
	if err != nil {
		return fmt.Errorf("format %s: %w", node, err)
	}
	defer device.Close()
	size, err := prepare(device)
	if err != nil {
		return fmt.Errorf("format %s: %w", node, err)
	}
	// mkfs wants the device for itself.
	if err := device.Close(); err != nil {
		return fmt.Errorf("format %s: %w", node, err)
	}
	if err := f.run(ctx, m, node); err != nil {
		return err
	}
	return finish(node, size)
}

// prepare makes sure that the device may be formatted, and marks it.
func prepare(device *os.File) (size int64, err error) {
	size, err = sizeOf(device)
	if err != nil {
		return 0, err
	}
	content, err := probe(device, size)
	if err != nil {
		return 0, err
	}
	switch {
	case content.Unfinished:
		return size, wipe(device, size)
	case !content.Blank():
		return 0, fmt.Errorf("%w: it holds: %s", ErrOccupied, content.Kind)
	}
	return size, setMark(device, size)
}

func (f Formatter) run(ctx context.Context, m maker, node string) error {
	output, status, err := f.Tools(ctx, m[0], append(m[1:len(m):len(m)], node)...)
	if err != nil {
		return fmt.Errorf("format %s: %w", node, err)
	}
	if status != 0 {
		return fmt.Errorf("format %s: %s failed with status %d: %s", node, m[0], status, oneLine(output))
	}
	return nil
}

func finish(node string, size int64) error {
	device, err := os.OpenFile(node, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("format %s: %w", node, err)
	}
	defer device.Close()
	if err := clearMark(device, size); err != nil {
		return fmt.Errorf("format %s: %w", node, err)
	}
	return nil
}

// oneLine makes a program's output fit into an error message.
func oneLine(output []byte) string {
	const most = 600
	line := string(bytes.Join(bytes.Fields(output), []byte(" ")))
	if len(line) > most {
		line = line[:most] + "…"
	}
	return line
}
