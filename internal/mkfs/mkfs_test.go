package mkfs

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestOptionsPassAnAllowList(t *testing.T) {
	for name, test := range map[string]struct {
		fsType, options string
		want            string // the command line, without the device; "!" if refused
	}{
		"none":                          {"ext4", "", "mkfs.ext4 -q -m 0 -E nodiscard,lazy_itable_init=1,lazy_journal_init=1"},
		"none, xfs":                     {"xfs", "  ", "mkfs.xfs -q -K"},
		"none, btrfs":                   {"btrfs", "", "mkfs.btrfs -q -K"},
		"an ext3":                       {"ext3", "", "mkfs.ext3 -q -m 0 -E nodiscard,lazy_journal_init=1"},
		"ext4's own":                    {"ext4", "-i 8192 -I 512  -m 1.5 -L data", "mkfs.ext4 -q -m 0 -i 8192 -I 512 -m 1.5 -L data -E nodiscard,lazy_itable_init=1,lazy_journal_init=1"},
		"extended options are joined":   {"ext4", "-E stride=16,stripe_width=64", "mkfs.ext4 -q -m 0 -E nodiscard,lazy_itable_init=1,lazy_journal_init=1,stride=16,stripe_width=64"},
		"features":                      {"ext4", "-O project,^64bit", "mkfs.ext4 -q -m 0 -O project,^64bit -E nodiscard,lazy_itable_init=1,lazy_journal_init=1"},
		"xfs's own":                     {"xfs", "-i size=1024,maxpct=50 -m reflink=0 -d agcount=8,noalign -l size=64m", "mkfs.xfs -q -K -i size=1024,maxpct=50 -m reflink=0 -d agcount=8,noalign -l size=64m"},
		"btrfs's own":                   {"btrfs", "-n 32k -m dup -M", "mkfs.btrfs -q -K -n 32k -m dup -M"},
		"no such file system":           {"ntfs", "", "!"},
		"xfs's own on ext4":             {"ext4", "-i size=1024", "!"},
		"force, ext4":                   {"ext4", "-F", "!"},
		"force, xfs":                    {"xfs", "-f", "!"},
		"force, btrfs":                  {"btrfs", "-f", "!"},
		"force, in one word":            {"ext4", "-qF", "!"},
		"force, after a good one":       {"xfs", "-L data -f", "!"},
		"force, in a value":             {"ext4", "-L -F", "!"},
		"no journal":                    {"ext4", "-O ^has_journal", "!"},
		"no checksums":                  {"ext4", "-O ^metadata_csum", "!"},
		"no checksums, xfs":             {"xfs", "-m crc=0", "!"},
		"another journal":               {"ext4", "-J device=/dev/sda", "!"},
		"another log":                   {"xfs", "-l logdev=/dev/sda,size=64m", "!"},
		"another device":                {"xfs", "-d name=/dev/sda", "!"},
		"a real-time device":            {"xfs", "-r rtdev=/dev/sda", "!"},
		"a prototype file":              {"xfs", "-p /etc/shadow", "!"},
		"a folder's content":            {"btrfs", "-r /", "!"},
		"a folder's content, ext4":      {"ext4", "-d /", "!"},
		"an undo file":                  {"ext4", "-z /etc/passwd", "!"},
		"a bad block list":              {"ext4", "-l /etc/shadow", "!"},
		"a device after all":            {"ext4", "/dev/sda", "!"},
		"a device after a flag":         {"btrfs", "-M /dev/sda", "!"},
		"several devices":               {"btrfs", "-d raid0", "!"},
		"smaller than the device":       {"xfs", "-d size=64m", "!"},
		"smaller, btrfs":                {"btrfs", "-b 256m", "!"},
		"no online growth":              {"ext4", "-O ^resize_inode", "!"},
		"no online growth by clusters":  {"ext4", "-O bigalloc", "!"},
		"blocks larger than a page":     {"xfs", "-b size=64k", "!"},
		"discard":                       {"ext4", "-E discard", "!"},
		"a size of its own":             {"ext4", "-E resize=1000000", "!"},
		"a dry run":                     {"ext4", "-n", "!"},
		"a program":                     {"ext4", "-L data; reboot", "!"},
		"a substitution":                {"ext4", "-L $(reboot)", "!"},
		"a quote":                       {"ext4", `-L "data"`, "!"},
		"a label too long":              {"xfs", "-L abcdefghijklm", "!"},
		"no value":                      {"ext4", "-i", "!"},
		"a value that is not one":       {"ext4", "-i many", "!"},
		"a number with a sign":          {"ext4", "-i +8192", "!"},
		"a number too large":            {"ext4", "-i 67108865", "!"},
		"a key without its value":       {"xfs", "-i size", "!"},
		"a value for a key that has no": {"xfs", "-d noalign=1", "!"},
		"an empty key":                  {"xfs", "-i ,size=512", "!"},
		"all of it reserved":            {"ext4", "-m 100", "!"},
		"not a percentage":              {"ext4", "-m NaN", "!"},
		"a percentage in powers":        {"ext4", "-m 1e1", "!"},
		"twice":                         {"ext4", "-m 1 -m 2", "!"},
		"too much":                      {"ext4", "-L data" + strings.Repeat(" ", MaxBytes), "!"},
	} {
		t.Run(name, func(t *testing.T) {
			program, args, err := Command(test.fsType, test.options)
			if test.want == "!" {
				if !errors.Is(err, ErrOption) && !errors.Is(err, ErrUnsupported) {
					t.Errorf("%q gave %s %q, %v", test.options, program, args, err)
				}
				return
			}
			if got := strings.Join(append([]string{program}, args...), " "); err != nil || got != test.want {
				t.Errorf("%q gave %s, %v; want %s", test.options, got, err, test.want)
			}
		})
	}
}

// Every flag and every word on the lists is one that the real program takes.
func TestThePrograms(t *testing.T) {
	for fsType, options := range map[string][]string{
		"ext4": {
			"-b 1024", "-b 2048", "-b 4096", "-i 1024", "-i 65536", "-I 512", "-N 1000", "-m 5", "-m 0.5", "-L data-1.x_y", "-T news",
			"-T small", "-T largefile", "-T largefile4", "-T big", "-T huge", "-T default", "-J size=8", "-O fast_commit -J fast_commit_size=1",
			"-E stride=4,stripe_width=8,lazy_itable_init=0,lazy_journal_init=0,packed_meta_blocks=1", "-E stripe-width=8",
			"-O 64bit,dir_index,dir_nlink,ea_inode,ext_attr,extra_isize,filetype,flex_bg,huge_file,inline_data,large_dir,large_file,metadata_csum,metadata_csum_seed,orphan_file,project,verity",
			"-O ^64bit,^ea_inode,^fast_commit,^flex_bg,^inline_data,^large_dir,^metadata_csum_seed,^orphan_file,^project,^verity",
		},
		"xfs": {
			"-b size=1024", "-b size=2k -n size=8k", "-d agcount=2,noalign", "-d agsize=100m", "-d su=64k,sw=2", "-d sunit=128,swidth=256",
			"-d extszinherit=16,cowextsize=32", "-i size=1024,maxpct=10,sparse=0", "-l size=64m", "-l su=32k", "-l sunit=64",
			"-m crc=1,finobt=1,rmapbt=1,reflink=1,bigtime=1,inobtcount=1", "-m reflink=0,bigtime=0,finobt=0,inobtcount=0", "-n size=16384",
			"-s size=4096", "-L data", "-i nrext64=1",
		},
		"btrfs": {
			"-n 32k", "--nodesize 16384", "-d single", "-d dup -m single", "-m dup", "-M", "-O extref,skinny-metadata,no-holes",
			"-O ^no-holes", "-R quota", "-R free-space-tree", "-R ^free-space-tree", "-L " + strings.Repeat("x", 64),
		},
	} {
		for _, o := range options {
			t.Run(fsType+" "+o, func(t *testing.T) {
				program, args, err := Command(fsType, o)
				if err != nil {
					t.Fatal(err)
				}
				image := filepath.Join(t.TempDir(), "image")
				if err := os.WriteFile(image, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Truncate(image, 4<<30); err != nil {
					t.Fatal(err)
				}
				out, err := exec.Command(program, append(slices.Clone(args), image)...).CombinedOutput()
				if err == nil {
					return
				}
				// The feature is younger than this program; the guest's says the same.
				for _, young := range []string{"orphan_file", "nrext64"} {
					if strings.Contains(o, young) {
						t.Skipf("%s is not known here: %s", young, out)
					}
				}
				t.Errorf("%s %q: %v: %s", program, args, err, out)
			})
		}
	}
}

// Nothing that passes can name a file, force, or be anything but one of the flags and its value.
func FuzzOptions(f *testing.F) {
	f.Add("ext4", "-i 8192 -O project,^64bit -E stride=16 -L data")
	f.Add("xfs", "-i size=1024 -m reflink=0 -d agcount=8,noalign")
	f.Add("btrfs", "-n 32k -m dup -M")
	f.Add("ext4", "-L -F")
	f.Fuzz(func(t *testing.T, fsType, options string) {
		_, args, err := Command(fsType, options)
		if err != nil {
			return
		}
		value := true // the words before the first flag are none of the class's
		for _, word := range args {
			if strings.ContainsAny(word, "/ \t\n\x00'\"`$;&|<>\\*?~") || !printable(word) {
				t.Errorf("%s: %q let %q through", fsType, options, word)
			}
			if value = !strings.HasPrefix(word, "-"); value {
				continue
			}
			switch word {
			case "-F", "-f", "-c", "-d", "-l", "-r", "-p", "-z", "-U":
				if allowLists[fsType][word].check == nil {
					t.Errorf("%s: %q let %q through", fsType, options, word)
				}
			}
		}
	})
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e })
}
