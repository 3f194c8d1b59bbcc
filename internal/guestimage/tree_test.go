package guestimage

import (
	"bytes"
	"path"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"
)

func TestTreeRefusesTwoFilesInOnePlace(t *testing.T) {
	tr := newTree()
	if err := tr.file("/bin/x", 0o755, []byte("one")); err != nil {
		t.Fatal(err)
	}
	if err := tr.file("/usr/bin/x", 0o755, []byte("one")); err != nil {
		t.Errorf("the same file by its other path: %v", err)
	}
	for name, err := range map[string]error{
		"other content":     tr.file("/bin/x", 0o755, []byte("two")),
		"other permissions": tr.file("/bin/x", 0o644, []byte("one")),
		"below a file":      tr.file("/bin/x/y", 0o644, nil),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestArchiveListsFoldersBeforeWhatIsInThemAndNoHostDetails(t *testing.T) {
	tr := newTree()
	if err := tr.file("/lib/modules/6.1/a.ko", 0o644, []byte("module")); err != nil {
		t.Fatal(err)
	}
	if err := tr.link("/sbin/mkfs.ext4", "mke2fs"); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if err := tr.writeCPIO(&buf); err != nil {
		t.Fatal(err)
	}
	recs, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(buf.Bytes())))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{".": true}
	inodes := map[uint64]bool{}
	for _, r := range recs {
		if parent := path.Dir(r.Name); !seen[parent] {
			t.Errorf("%s comes before %s", r.Name, parent)
		}
		seen[r.Name] = true
		if r.UID != 0 || r.GID != 0 || r.MTime != 0 || r.Major != 0 || r.Minor != 0 || inodes[r.Ino] {
			t.Errorf("%v", r.Info)
		}
		inodes[r.Ino] = true
	}
	if len(seen) != len(tr)+1 {
		t.Errorf("%d records for %d nodes", len(seen)-1, len(tr))
	}
}
