package guest_test

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
)

// What a StorageClass may choose is made by the guest's own programs, and mounted and grown by its own kernel: every
// option that leads to another format on the disk is in here.
func TestTheOwnersMkfsOptionsAreMadeMountedAndGrown(t *testing.T) {
	m := theMachine(t)
	for _, tc := range []struct {
		name, fstype string
		size         int64
		options      string
		tool, sign   string // run on the host, and what it says
	}{
		{"the smallest ext4", "ext4", 16 * mib, "", "dumpe2fs -h", "has_journal"},
		{"ext4, sizes", "ext4", 256 * mib, "-b 1024 -i 4096 -I 512 -m 3 -L data -J size=8", "dumpe2fs -h", "Inode size:\t          512"},
		{"ext4, more features", "ext4", 512 * mib, "-T news -E stride=4,stripe_width=8,packed_meta_blocks=1,lazy_itable_init=0 -O ea_inode,fast_commit,inline_data,large_dir,metadata_csum_seed,orphan_file,project,verity", "dumpe2fs -h", "orphan_file"},
		{"ext4, fewer features", "ext4", 256 * mib, "-O ^64bit,^flex_bg", "dumpe2fs -h", "has_journal"},
		{"the smallest xfs", "xfs", 300 * mib, "", "xfs_db -r -c info", "isize=512"},
		{"xfs, sizes", "xfs", 2 * gib, "-b size=2048 -i size=1024,maxpct=10,sparse=0 -n size=8192 -d agcount=8,sunit=128,swidth=256 -l size=64m -L data", "xfs_db -r -c info", "isize=1024"},
		{"xfs, more features", "xfs", 512 * mib, "-m rmapbt=1,reflink=1,finobt=1,bigtime=1,inobtcount=1 -s size=4096", "xfs_db -r -c info", "rmapbt=1"},
		{"xfs, fewer features", "xfs", 512 * mib, "-m reflink=0,bigtime=0,finobt=0,inobtcount=0", "xfs_db -r -c info", "reflink=0"},
		{"the smallest btrfs", "btrfs", 256 * mib, "", "btrfs inspect-internal dump-super", "nodesize\t\t16384"},
		{"btrfs, sizes", "btrfs", 512 * mib, "-n 32k -d single -m dup -R quota -L data", "btrfs inspect-internal dump-super", "nodesize\t\t32768"},
		{"btrfs, mixed", "btrfs", 256 * mib, "-M -n 4096 -O ^no-holes -R ^free-space-tree", "btrfs inspect-internal dump-super", "MIXED_GROUPS"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			image := newImage(t, tc.size)
			d := m.plug(t, image, false)
			st := d.storage(tc.fstype, append([]string{"katadirect.io/mkfs-options=" + tc.options}, ifBlank...)...)
			c := m.running(t, st)
			c.must("echo marker > /data/marker && sync")
			before, err := m.stats(t, st.MountPoint)
			if err != nil {
				t.Fatal(err)
			}
			d.resize(2 * tc.size)
			if err := m.growVolume(t.Context(), st.MountPoint, uint64(2*tc.size)); err != nil {
				t.Fatal(err)
			}
			after, err := m.stats(t, st.MountPoint)
			if err != nil {
				t.Fatal(err)
			}
			if grown := after.GetUsage()[0].GetTotal() - before.GetUsage()[0].GetTotal(); grown < uint64(tc.size)*3/4 {
				t.Errorf("grown by %d bytes of %d", grown, tc.size)
			}
			if err := c.remove(); err != nil {
				t.Fatal(err)
			}
			d.unplug()
			checkClean(t, tc.fstype, image)
			if shown := onHost(t, "sh", "-c", tc.tool+" "+image); !strings.Contains(shown, tc.sign) {
				t.Errorf("%s does not show %q:\n%s", tc.tool, tc.sign, shown)
			}
		})
	}
}

func TestTheGuestRefusesMkfsOptionsThatAreNotAllowed(t *testing.T) {
	m := theMachine(t)
	image := newImage(t, 64*mib)
	d := m.plug(t, image, false)
	st := d.storage("ext4", append([]string{"katadirect.io/mkfs-options=-L data -F"}, ifBlank...)...)
	wantCode(t, m.tryCreate(t.Context(), newID("c"), spec("true"), st), codes.InvalidArgument, `"-F" of ext4`)
	d.unplug()
	if shown := onHost(t, "sh", "-c", "cmp "+image+" /dev/zero 2>&1 || true"); !strings.Contains(shown, "EOF on "+image) {
		t.Errorf("the disk was touched: %s", shown)
	}
}
