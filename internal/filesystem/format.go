package filesystem

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/mkfs"
)

// ephemeralMaker makes the ext4 that Kata's create_filesystem option means:
// for data that no crash needs to spare.
var ephemeralMaker = command{"mkfs.ext4", []string{"-q", "-O", "^has_journal", "-m", "0", "-i", "163840", "-I", "128",
	"-E", "nodiscard,lazy_itable_init=1"}}

// command is a mkfs program and its arguments, without the device.
type command struct {
	program string
	args    []string
}

// How says what is special about a file system that is to be made. The zero
// value is nothing.
type How struct {
	// Ephemeral is an ext4 without a journal.
	Ephemeral bool
	// Options are those of the mkfs program that the volume's owner has
	// chosen. They came from the host's record, were checked there, and are
	// checked again.
	Options string
}

func (h How) command(fstype string) (command, error) {
	if h.Ephemeral {
		if fstype != "ext4" {
			return command{}, fmt.Errorf("%w without a journal: %q", ErrUnsupported, fstype)
		}
		return ephemeralMaker, nil
	}
	program, args, err := mkfs.Command(fstype, h.Options)
	if errors.Is(err, mkfs.ErrUnsupported) {
		return command{}, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return command{program, args}, err
}

// Formatter makes file systems.
type Formatter struct {
	Tools Tools
	// Begins, if not nil, is called before a device is changed, with what is on
	// it: nothing, or an unfinished format.
	Begins func(Content)
}

// Format makes a file system of that type on a device, if the device is blank
// or carries a format of this package that was never finished. Otherwise it
// changes nothing and returns ErrOccupied.
func (f Formatter) Format(ctx context.Context, node, fstype string, how How) error {
	if _, err := how.command(fstype); err != nil {
		return fmt.Errorf("format %s: %w", node, err)
	}
	content, err := f.FormatIfBlank(ctx, node, fstype, how)
	if err == nil && content.Used() {
		err = fmt.Errorf("format %s: %w: it holds: %s", node, ErrOccupied, content.Kind)
	}
	return err
}

// FormatIfBlank is Format for whoever is content with what is there. It
// returns what the device held before, where it returns no error. ErrBusy says
// that somebody else has the device for himself.
func (f Formatter) FormatIfBlank(ctx context.Context, node, fstype string, how How) (Content, error) {
	content, err := glance(node)
	if err != nil || content.Used() {
		return content, err
	}
	if content, err = f.format(ctx, node, fstype, how); err != nil {
		err = fmt.Errorf("format %s: %w", node, err)
	}
	return content, err
}

// format formats a device that looks blank, if it is.
func (f Formatter) format(ctx context.Context, node, fstype string, how How) (Content, error) {
	// Exclusive: the kernel refuses if the device is mounted or part of
	// something.
	device, err := os.OpenFile(node, os.O_RDWR|os.O_EXCL, 0)
	if err != nil {
		return Content{}, busy(err)
	}
	defer device.Close()
	size, content, err := look(device, probe)
	if err != nil || content.Used() {
		return content, err
	}
	m, err := how.command(fstype)
	if err != nil {
		return content, err
	}
	if f.Begins != nil {
		f.Begins(content)
	}
	if err := begin(device, size, content); err != nil {
		return content, err
	}
	if strings.HasPrefix(fstype, "ext") {
		defer readAhead(node).Close()
	}
	// mkfs wants the device for itself.
	if err := device.Close(); err != nil {
		return content, err
	}
	if err := f.run(ctx, m, how, node); err != nil {
		return content, err
	}
	return content, finish(node, size)
}

// busy says in words what the kernel has for a device that is in use.
func busy(err error) error {
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	return err
}

// Make is Format for what the caller knows to be blank and nobody else's, such as an image that it has just made: it
// neither looks nor leaves a mark.
func (f Formatter) Make(ctx context.Context, image, fstype string, how How) error {
	m, err := how.command(fstype)
	if err != nil {
		return fmt.Errorf("format %s: %w", image, err)
	}
	if err := f.run(ctx, m, how, image); err != nil {
		return fmt.Errorf("format %s: %w", image, err)
	}
	return nil
}

// begin marks a device that may be formatted, and clears what an unfinished
// format has left.
func begin(device *os.File, size int64, content Content) error {
	if content.Unfinished {
		return wipe(device, size)
	}
	return setMark(device, size)
}

// mkfsBeginning is the part of a device that mkfs.ext4 fills in pieces smaller
// than a page, where its blocks are smaller.
const mkfsBeginning = 512 * kib

// readAhead has the kernel read what mkfs.ext4 writes parts of pages to: for
// each of them it would have to read the page first. What is read is kept as
// long as somebody has the device open.
func readAhead(node string) io.Closer {
	device, err := os.Open(node)
	if err != nil {
		return io.NopCloser(nil) // mkfs says why
	}
	_ = unix.Fadvise(int(device.Fd()), 0, mkfsBeginning, unix.FADV_WILLNEED)
	return device
}

func (f Formatter) run(ctx context.Context, m command, how How, node string) error {
	output, status, err := f.Tools.run(ctx, m.program, append(slices.Clone(m.args), node)...)
	switch words := mkfs.OneLine(output); {
	case err != nil:
		return err
	case status == 0:
		return nil
	case strings.Contains(strings.ToLower(words), unix.ENOSPC.Error()):
		return fmt.Errorf("%w: %s failed with status %d: %s", unix.ENOSPC, m.program, status, words)
	case how.Options != "":
		return fmt.Errorf("%w: %s does not take %q for this volume, and failed with status %d: %s",
			ErrRefused, m.program, how.Options, status, words)
	default:
		return fmt.Errorf("%s failed with status %d: %s", m.program, status, words)
	}
}

func finish(node string, size int64) error {
	device, err := os.OpenFile(node, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer device.Close()
	return clearMark(device, size)
}
