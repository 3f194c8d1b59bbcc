package filesystem

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/mkfs"
)

func TestBlankDeviceIsFormattedAndMounts(t *testing.T) {
	for _, fstype := range []string{"ext4", "ext3", "xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			image := newImage(t, 400*mib)
			node := attach(t, image)
			if err := (Formatter{Tools: hostTools}).Format(t.Context(), node, fstype, How{}); err != nil {
				t.Fatal(err)
			}
			if content, err := Probe(node); err != nil || content.Kind != fstype || content.Unfinished {
				t.Errorf("after formatting: %+v, %v", content, err)
			} else if fstype != "btrfs" && content.SizeBytes != 400*mib {
				t.Errorf("a file system of %d bytes on a device of 400 MiB", content.SizeBytes)
			}
			target := mountFor(t, node, fstype)
			if err := os.WriteFile(filepath.Join(target, "file"), []byte("data"), 0o600); err != nil {
				t.Error(err)
			}
			if m, err := MountAt(target); err != nil || m.Source != node || m.FSType != fstype || m.ReadOnly {
				t.Errorf("mount table: %+v, %v", m, err)
			}
			if err := (Formatter{Tools: hostTools}).Format(t.Context(), node, fstype, How{}); !errors.Is(err, ErrOccupied) {
				t.Errorf("formatting a mounted device: %v, want ErrOccupied", err)
			}
		})
	}
}

func TestABlankDeviceThatSomebodyHasForHimselfIsNotFormatted(t *testing.T) {
	node := attach(t, newImage(t, 64*mib))
	holder, err := os.OpenFile(node, os.O_RDONLY|os.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	f := Formatter{Tools: hostTools, Begins: func(Content) { t.Error("it begins") }}
	if err := f.Format(t.Context(), node, "ext4", How{}); !errors.Is(err, ErrBusy) || !errors.Is(err, unix.EBUSY) {
		t.Errorf("formatting it: %v, want ErrBusy and EBUSY", err)
	}
	if content, err := Probe(node); err != nil || !content.Blank() {
		t.Errorf("afterwards: %+v, %v", content, err)
	}
}

func TestFormattingKeepsASparseImageSparse(t *testing.T) {
	image := newImage(t, 2*gib)
	node := attach(t, image)
	if err := (Formatter{Tools: hostTools}).Format(t.Context(), node, "ext4", How{}); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(image, &st); err != nil {
		t.Fatal(err)
	}
	if used := st.Blocks * 512; used > 8*mib {
		t.Errorf("a new ext4 of 2 GiB takes %d bytes", used)
	}
}

func TestTheOwnersOptionsAreUsed(t *testing.T) {
	for fstype, tc := range map[string]struct{ options, tool, sign string }{
		"ext4":  {"-I 512 -m 3 -L data -E stride=16", "dumpe2fs -h", "Inode size:\t          512"},
		"xfs":   {"-i size=1024", "xfs_db -r -c info", "isize=1024"},
		"btrfs": {"-n 32k -L data", "btrfs inspect-internal dump-super", "nodesize\t\t32768"},
	} {
		node := attach(t, newImage(t, 400*mib))
		if err := (Formatter{Tools: hostTools}).Format(t.Context(), node, fstype, How{Options: tc.options}); err != nil {
			t.Fatal(err)
		}
		if shown := run(t, "sh", "-c", tc.tool+" "+node); !strings.Contains(shown, tc.sign) {
			t.Errorf("%s made with %q does not show %q:\n%s", fstype, tc.options, tc.sign, shown)
		}
		mountFor(t, node, fstype)
	}
}

// The host has checked them; the guest does not believe it.
func TestOptionsThatAreNotAllowedTouchNothing(t *testing.T) {
	node := attach(t, newImage(t, 64*mib))
	for _, options := range []string{"-F", "-O ^has_journal", "-d /", "/dev/sda", "-L a;reboot", "-J device=/dev/sda"} {
		err := (Formatter{Tools: hostTools}).Format(t.Context(), node, "ext4", How{Options: options})
		if !errors.Is(err, mkfs.ErrOption) {
			t.Errorf("%q: %v, want %v", options, err, mkfs.ErrOption)
		}
	}
	if content, err := Probe(node); err != nil || !content.Blank() {
		t.Errorf("the device was touched: %+v, %v", content, err)
	}
}

func TestEphemeralFormatHasNoJournal(t *testing.T) {
	node := attach(t, newImage(t, 64*mib))
	if err := (Formatter{Tools: hostTools}).Format(t.Context(), node, "ext4", How{Ephemeral: true}); err != nil {
		t.Fatal(err)
	}
	if features := run(t, "dumpe2fs", "-h", node); strings.Contains(features, "has_journal") {
		t.Error("the file system has a journal")
	}
	err := (Formatter{Tools: hostTools}).Format(t.Context(), node, "xfs", How{Ephemeral: true})
	if !errors.Is(err, ErrUnsupported) {
		t.Errorf("ephemeral xfs: %v, want ErrUnsupported", err)
	}
}

func TestUnknownTypeIsRefusedBeforeAnythingIsWritten(t *testing.T) {
	node := attach(t, newImage(t, 64*mib))
	err := (Formatter{Tools: hostTools}).Format(t.Context(), node, "reiserfs; rm -rf /", How{})
	if !errors.Is(err, ErrUnsupported) {
		t.Errorf("%v, want ErrUnsupported", err)
	}
	if content, err := Probe(node); err != nil || !content.Blank() {
		t.Errorf("the device was touched: %+v, %v", content, err)
	}
}

// What a crash can leave behind once formatting has begun.
func TestUnfinishedFormatIsDoneAgain(t *testing.T) {
	const size = 400 * mib
	for fstype, magic := range map[string]struct {
		offset int64
		text   string
	}{
		"ext4":  {}, // its superblock is not on the disk before the end
		"xfs":   {xfsInProgress, "\x01"},
		"btrfs": {0x10040, "!BHRfS_M"},
	} {
		for _, tc := range []struct {
			name  string
			crash func(t *testing.T, image string)
		}{
			{"before mkfs wrote anything", func(*testing.T, string) {}},
			{"with pieces in the signature areas", func(t *testing.T, image string) {
				for _, offset := range []int64{5000, 65600, 3 * mib, 128 * mib, -100} {
					put(t, image, offset, "piece of a file system")
				}
			}},
			{"just before mkfs was done", func(t *testing.T, image string) {
				makeFileSystem(t, fstype, image)
				put(t, image, magic.offset, magic.text)
			}},
		} {
			t.Run(fstype+" "+tc.name, func(t *testing.T) {
				image := newImage(t, size)
				f, err := os.OpenFile(image, os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				if err := setMark(f, size); err != nil {
					t.Fatal(err)
				}
				tc.crash(t, image)
				if content, err := Probe(image); err != nil || !content.Unfinished || content.Blank() {
					t.Fatalf("after the crash: %+v, %v", content, err)
				}
				node := attach(t, image)
				if err := (Formatter{Tools: hostTools}).Format(t.Context(), node, fstype, How{}); err != nil {
					t.Fatal(err)
				}
				if content, err := Probe(node); err != nil || content.Kind != fstype || content.Unfinished {
					t.Errorf("after the second format: %+v, %v", content, err)
				}
				mountFor(t, node, fstype)
			})
		}
	}
}

func makeFileSystem(t *testing.T, fstype, node string) {
	t.Helper()
	m, err := How{}.command(fstype)
	if err != nil {
		t.Fatal(err)
	}
	run(t, m.program, append(m.args, node)...)
}

// Whoever can write files can write marks, too: on a file system that was in
// use they must mean nothing, wherever they come to lie.
func TestAMarkMeansNothingOnceAFileSystemWasInUse(t *testing.T) {
	const size = 400 * mib
	for _, fstype := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			image := newImage(t, size)
			node := attach(t, image)
			makeFileSystem(t, fstype, node)
			target := mountFor(t, node, fstype)
			if err := unix.Unmount(target, 0); err != nil {
				t.Fatal(err)
			}
			put(t, image, markOffset(size), string(mark(size)))
			if !isMarkedFile(t, image) {
				t.Fatal("the mark is not where it is looked for")
			}
			if content, err := Probe(image); err != nil || content.Kind != fstype || content.Unfinished {
				t.Errorf("%+v, %v; want a finished %s", content, err, fstype)
			}
			before := checksum(t, image)
			err := (Formatter{Tools: hostTools}).Format(t.Context(), node, fstype, How{})
			if !errors.Is(err, ErrOccupied) || checksum(t, image) != before {
				t.Errorf("format of a used file system: %v, want ErrOccupied and nothing changed", err)
			}
		})
	}
}

// mkfs is killed by a crash of the guest, or fails: the mark must be on the
// disk by then.
func TestTheMarkIsWrittenBeforeMkfsAndClearedAfterIt(t *testing.T) {
	image := newImage(t, 64*mib)
	node := attach(t, image)
	failing := func(context.Context, string, ...string) ([]byte, int, error) {
		if !isMarkedFile(t, image) {
			t.Error("mkfs was started before the mark was in the image")
		}
		return []byte("mkfs: no  space\nleft"), 1, nil
	}
	err := (Formatter{Tools: failing}).Format(t.Context(), node, "ext4", How{})
	if err == nil || !strings.Contains(err.Error(), "status 1: mkfs: no space left") {
		t.Errorf("error %v, want mkfs' own words", err)
	}
	if err := (Formatter{Tools: hostTools}).Format(t.Context(), node, "ext4", How{}); err != nil {
		t.Fatal(err)
	}
	if isMarkedFile(t, image) {
		t.Error("the mark is still there after the format")
	}
}

func TestAMarkOfAnotherSizeMeansNothing(t *testing.T) {
	image := newImage(t, 64*mib)
	put(t, image, markOffset(64*mib), string(mark(32*mib)))
	content, err := Probe(image)
	if err != nil || content.Unfinished || content.Blank() {
		t.Errorf("%+v, %v; want unknown data", content, err)
	}
}
