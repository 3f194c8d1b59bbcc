// Package mkfs knows how the file systems of volumes are made: the command line for each, and which options of the
// mkfs programs a StorageClass may choose. The CSI driver checks options with it before it keeps them, and makes file
// systems on images that no machine has had yet; the guest's agent checks them again before it runs the program.
//
// It runs nothing itself. Options are words of an argument list, never of a shell's line. Those that name a file or a
// device, that force, or that take safety away are on no list.
package mkfs

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

var (
	// ErrUnsupported says that no program for this file system is known here.
	ErrUnsupported = errors.New("file system type is not supported")
	// ErrOption says that an option is not on the list for this file system, or its value is not one.
	ErrOption = errors.New("mkfs option is not allowed")
)

// MaxBytes bounds the text of all options. It is far more than any sensible choice needs.
const MaxBytes = 512

// A maker is the command line of a mkfs program, without options of a class and without the device. None has a flag
// that overrides the program's own look for existing content, and none discards: the device is blank, and a discard
// would throw the mark of an unfinished format away.
type maker struct {
	program string
	args    []string
	// extended are ext's -E options. mke2fs heeds only the last -E, so those of a class are joined to them.
	extended []string
}

// makers by file system. ext's inode tables and journal are initialised by the kernel when it finds the time: written
// out at once they would fill a sparse backing file for nothing. Nothing is reserved for root: on a volume of its own
// that helps nobody.
var makers = map[string]maker{
	"ext4":  {"mkfs.ext4", []string{"-q", "-m", "0"}, []string{"nodiscard", "lazy_itable_init=1", "lazy_journal_init=1"}},
	"ext3":  {"mkfs.ext3", []string{"-q", "-m", "0"}, []string{"nodiscard", "lazy_journal_init=1"}},
	"xfs":   {"mkfs.xfs", []string{"-q", "-K"}, nil},
	"btrfs": {"mkfs.btrfs", []string{"-q", "-K"}, nil},
}

// Command returns the program that makes a file system, and its arguments without the device: with the options of a
// class, "" for none. It returns ErrUnsupported or ErrOption.
func Command(fsType, options string) (program string, args []string, err error) {
	m, known := makers[fsType]
	if !known {
		return "", nil, fmt.Errorf("%w: %q", ErrUnsupported, fsType)
	}
	chosen, err := parse(fsType, options)
	if err != nil {
		return "", nil, err
	}
	args, extended := slices.Clone(m.args), slices.Clone(m.extended)
	for _, o := range chosen {
		switch {
		case o.flag == "-E" && len(m.extended) > 0:
			extended = append(extended, o.value)
		case o.value == "":
			args = append(args, o.flag)
		default:
			args = append(args, o.flag, o.value)
		}
	}
	if len(extended) > 0 {
		args = append(args, "-E", strings.Join(extended, ","))
	}
	return m.program, args, nil
}

// Check returns ErrUnsupported or ErrOption, naming the first option that is not allowed, unless a file system can be
// made with these options. Only the program itself knows whether they go together.
func Check(fsType, options string) error {
	_, _, err := Command(fsType, options)
	return err
}
