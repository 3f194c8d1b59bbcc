package filesystem

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const gptMagic = "EFI PART"

// occupied are ways to fill a disk. want is part of what it is called.
var occupied = []struct {
	name string
	fill func(t *testing.T, image string)
	want string
}{
	{"ext4", tool("mkfs.ext4", "-q"), "ext4"},
	{"ext4 with blocks of 1 KiB", tool("mkfs.ext4", "-q", "-b", "1024"), "ext4"},
	{"ext3", tool("mkfs.ext3", "-q"), "ext3"},
	{"ext2", tool("mkfs.ext2", "-q"), "ext2"},
	{"xfs", tool("mkfs.xfs", "-q"), "xfs"},
	{"btrfs", tool("mkfs.btrfs", "-q"), "btrfs"},
	{"swap", tool("mkswap"), "swap"},
	{"vfat", bytesAt(82, "FAT32   "), "vfat"},
	{"ntfs", bytesAt(3, "NTFS    "), "ntfs"},
	{"LVM label in the second sector", bytesAt(512, "LABELONE"), "LVM"},
	{"LVM label in the fourth sector", bytesAt(1536, "LABELONE"), "LVM"},
	{"LUKS", bytesAt(0, "LUKS\xba\xbe\x00\x02"), "LUKS"},
	{"LUKS, first header lost", bytesAt(4*mib, "SKUL\xba\xbe"), "unknown data"},
	{"RAID 1.1", bytesAt(0, "\xfc\x4e\x2b\xa9"), "RAID"},
	{"RAID 1.2", bytesAt(4096, "\xfc\x4e\x2b\xa9"), "RAID"},
	{"RAID 1.0, at the end", bytesAt(-8192, "\xfc\x4e\x2b\xa9"), "unknown data"},
	{"RAID 0.90, at the end", bytesAt(-64*kib, "\xfc\x4e\x2b\xa9"), "unknown data"},
	{"ZFS", bytesAt(128*kib+3*kib, "\x0c\xb1\xba\x00\x00\x00\x00\x00"), "ZFS"},
	{"ZFS, labels at the beginning lost", bytesAt(-128*kib, "\x0c\xb1\xba\x00"), "unknown data"},
	{"GPT", bytesAt(512, gptMagic), "GPT"},
	{"GPT, first table lost", bytesAt(-512, gptMagic), "unknown data"},
	{"MBR", bytesAt(446, "\x80"+strings.Repeat("\x01", 63)+"\x55\xaa"), "MBR"},
	{"VMFS", bytesAt(mib, "\x0d\xd0\x01\xc0"), "VMFS"},
	{"ext4, first superblock lost", func(t *testing.T, image string) {
		tool("mkfs.ext4", "-q")(t, image)
		put(t, image, 0, strings.Repeat("\x00", 4*mib))
	}, "unknown data"},
	{"btrfs, first superblock lost", func(t *testing.T, image string) {
		tool("mkfs.btrfs", "-q")(t, image)
		put(t, image, 0, strings.Repeat("\x00", 5*mib))
	}, "unknown data"},
	{"noise in the first megabyte", bytesAt(700*kib, "anything"), "unknown data"},
	{"the very last byte", bytesAt(-1, "x"), "unknown data"},
}

func tool(name string, args ...string) func(*testing.T, string) {
	return func(t *testing.T, image string) { run(t, name, append(args, image)...) }
}

func bytesAt(offset int64, data string) func(*testing.T, string) {
	return func(t *testing.T, image string) { put(t, image, offset, data) }
}

func TestOccupiedDevicesAreNamedAndNeverFormatted(t *testing.T) {
	for _, tc := range occupied {
		t.Run(tc.name, func(t *testing.T) {
			size := int64(140 * mib)
			if tc.want == "xfs" {
				size = 300 * mib // the least that mkfs.xfs takes
			}
			image := newImage(t, size)
			tc.fill(t, image)
			content, err := Probe(image)
			if err != nil {
				t.Fatal(err)
			}
			if content.Blank() || !strings.Contains(content.Kind, tc.want) {
				t.Errorf("found %q, want something with %q", content.Kind, tc.want)
			}
			before := checksum(t, image)
			node := attach(t, image)
			err = Formatter{Tools: hostTools}.Format(t.Context(), node, "ext4", How{})
			if !errors.Is(err, ErrOccupied) {
				t.Errorf("format: %v, want ErrOccupied", err)
			} else if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("the error does not say what is there: %v", err)
			}
			if checksum(t, image) != before {
				t.Error("the device was changed")
			}
		})
	}
}

// The mark of an unfinished format is the one thing in those areas that does
// not forbid formatting; everything else does, to the byte.
func TestAnyByteInASignatureAreaForbidsFormatting(t *testing.T) {
	for _, size := range []int64{64 * kib, 5 * mib, 300 * mib} {
		image := newImage(t, size)
		for _, a := range signatureAreas(size) {
			for _, offset := range []int64{a.offset, a.offset + a.length/2, a.offset + a.length - 1} {
				put(t, image, offset, "\x01")
				if content, err := Probe(image); err != nil || content.Blank() {
					t.Errorf("a byte at %d of %d: blank %v, %v", offset, size, content.Blank(), err)
				}
				put(t, image, offset, "\x00")
			}
		}
		if content, err := Probe(image); err != nil || !content.Blank() {
			t.Errorf("%d bytes of zeros: %+v, %v", size, content, err)
		}
	}
}

func TestSignatureAreasStayInsideTheDevice(t *testing.T) {
	for _, size := range []int64{1, 511, 4096, 4097, 100 * kib, mib, 4*mib + 1, 16 * mib, gib, 300 * gib} {
		var covered int64
		for _, a := range signatureAreas(size) {
			if a.offset < 0 || a.length <= 0 || a.offset+a.length > size {
				t.Errorf("device of %d bytes: area %+v", size, a)
			}
			covered = max(covered, a.offset+a.length)
		}
		if covered != size {
			t.Errorf("device of %d bytes: nothing is read after byte %d", size, covered)
		}
	}
}

// badSectors is a device of zeros with a part that cannot be read.
type badSectors struct {
	size int64
	bad  area
}

func (b badSectors) ReadAt(p []byte, offset int64) (int, error) {
	clear(p)
	if n := b.bad.offset - offset; n < int64(len(p)) && offset < b.bad.offset+b.bad.length {
		return int(max(0, n)), errors.New("medium error")
	}
	if left := b.size - offset; left < int64(len(p)) {
		return int(max(0, left)), io.EOF
	}
	return len(p), nil
}

func TestAFailedReadIsNeverBlank(t *testing.T) {
	const size = 300 * mib
	for _, a := range signatureAreas(size) {
		for _, offset := range []int64{a.offset, a.offset + a.length - 512} {
			content, err := probe(badSectors{size, area{offset, 512}}, size)
			if err == nil {
				t.Errorf("sector at %d cannot be read, and the device is called %+v", offset, content)
			}
		}
	}
	if content, err := probe(badSectors{size: size}, size); err != nil || !content.Blank() {
		t.Fatalf("readable zeros: %+v, %v", content, err)
	}
	// A device that answers with less than it claims to have.
	if _, err := probe(badSectors{size: mib}, size); err == nil {
		t.Error("a device that ends early was probed without an error")
	}
}

func TestProbeRefusesWhatIsNoDevice(t *testing.T) {
	if _, err := Probe(t.TempDir()); err == nil {
		t.Error("a folder was probed")
	}
	if _, err := Probe("/dev/null"); err == nil {
		t.Error("a character device was probed")
	}
	if _, err := Probe(newImage(t, 0)); err == nil {
		t.Error("an empty file was probed")
	}
	if _, err := Probe("/no/such/device"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing device: %v", err)
	}
}

func FuzzIdentify(f *testing.F) {
	f.Add([]byte("XFSB"))
	f.Add(make([]byte, 2048))
	f.Add([]byte(strings.Repeat("\x0c\xb1\xba\x00", 64*kib)))
	f.Fuzz(func(t *testing.T, head []byte) {
		kind := identify(head)
		if kind != "" && allZero(head) {
			t.Errorf("zeros were taken for %q", kind)
		}
		fileSystemSize(kind, head)
	})
}

// A look at a device goes past the kernel's cache, which must neither change what is seen nor fail where whole blocks do
// not add up.
func TestDevicesOfAnySizeAreSeenPastTheCache(t *testing.T) {
	for _, tc := range []struct {
		size  int64
		block string
		past  bool
	}{
		{32 * kib, "512", true}, {mib, "512", true}, {64 * mib, "512", true}, {64 * mib, "4096", true},
		{8*mib + 512, "512", false}, {64*mib - 512, "512", false},
	} {
		t.Run(fmt.Sprint(tc.size, " in blocks of ", tc.block), func(t *testing.T) {
			node := attach(t, newImage(t, tc.size), "--sector-size", tc.block)
			if content, err := Probe(node); err != nil || !content.Blank() {
				t.Fatalf("a blank device: %+v, %v", content, err)
			}
			f, err := os.OpenFile(node, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			undo := pastCache(f, tc.size)
			if isDirect(t, f) != tc.past {
				t.Errorf("past the cache: %t, want %t", !tc.past, tc.past)
			}
			if undo(); isDirect(t, f) {
				t.Error("it stays past the cache")
			}
			// Through the cache, and not flushed by whoever wrote it.
			if _, err := f.WriteAt([]byte("x"), tc.size-1); err != nil {
				t.Fatal(err)
			}
			if content, err := Probe(node); err != nil || content.Blank() {
				t.Errorf("a byte in the cache, at the very end: %+v, %v", content, err)
			}
		})
	}
}

func isDirect(t *testing.T, f *os.File) bool {
	t.Helper()
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil {
		t.Fatal(err)
	}
	return flags&unix.O_DIRECT != 0
}

func TestEveryByteCounts(t *testing.T) {
	for length := range 98 {
		data := make([]byte, length)
		if !allZero(data) {
			t.Fatalf("%d zeros are called something else", length)
		}
		for i := range data {
			data[i] = 1
			if allZero(data) {
				t.Errorf("byte %d of %d is not looked at", i, length)
			}
			data[i] = 0
		}
	}
}
