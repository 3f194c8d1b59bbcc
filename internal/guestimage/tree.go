package guestimage

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"
)

// tree is the guest's root file system before it is written down: paths
// without the leading slash. Everything belongs to root and carries no time,
// so that equal content gives equal bytes.
type tree map[string]node

type node struct {
	mode uint64 // file type and permissions, as in cpio
	data []byte // content of a file, target of a link
}

// mergedUsr are the top folders that are links into /usr, as in any Debian
// installation: the packages name files under both.
var mergedUsr = []string{"bin", "sbin", "lib", "lib64"}

// newTree returns a tree with the folders that a guest's init and its tools
// take for granted.
func newTree() tree {
	t := tree{}
	for _, d := range []string{"dev", "etc", "newroot", "proc", "root", "run", "sys", "usr", "var", "var/lib", "var/tmp", "mnt"} {
		t[d] = node{mode: cpio.S_IFDIR | 0o755}
	}
	t["tmp"] = node{mode: cpio.S_IFDIR | 0o1777}
	t["var/tmp"] = node{mode: cpio.S_IFDIR | 0o1777}
	t["root"] = node{mode: cpio.S_IFDIR | 0o700}
	for _, d := range mergedUsr {
		t["usr/"+d] = node{mode: cpio.S_IFDIR | 0o755}
		t[d] = node{mode: cpio.S_IFLNK | 0o777, data: []byte("usr/" + d)}
	}
	return t
}

// clean turns a path in the guest into a key: no leading slash, and below usr
// where the top folder is a link there.
func clean(p string) string {
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	top, _, _ := strings.Cut(p, "/")
	if top != p && slices.Contains(mergedUsr, top) {
		p = "usr/" + p
	}
	return p
}

// put adds a node and the folders above it. A second, different one under the
// same path is an error: two packages would be fighting over a file.
func (t tree) put(p string, n node) error {
	p = clean(p)
	if old, ok := t[p]; ok && (old.mode != n.mode || !bytes.Equal(old.data, n.data)) {
		return fmt.Errorf("guest image: two different files at /%s", p)
	}
	t[p] = n
	for d := path.Dir(p); d != "."; d = path.Dir(d) {
		switch up, ok := t[d]; {
		case !ok:
			t[d] = node{mode: cpio.S_IFDIR | 0o755}
		case up.mode&cpio.S_IFMT != cpio.S_IFDIR:
			return fmt.Errorf("guest image: /%s is to be in /%s, which is no folder", p, d)
		}
	}
	return nil
}

func (t tree) file(p string, perm uint64, data []byte) error {
	return t.put(p, node{mode: cpio.S_IFREG | perm, data: data})
}

func (t tree) link(p, target string) error {
	return t.put(p, node{mode: cpio.S_IFLNK | 0o777, data: []byte(target)})
}

// has says whether the guest finds something at p.
func (t tree) has(p string) bool {
	_, ok := t[clean(p)]
	return ok
}

// digest names the content: equal trees have equal digests.
func (t tree) digest() string {
	h := sha256.New()
	for _, p := range slices.Sorted(maps.Keys(t)) {
		n := t[p]
		fmt.Fprintf(h, "%q %o %d\n", p, n.mode, len(n.data))
		h.Write(n.data)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// writeCPIO writes the tree as a newc archive, which the kernel unpacks into its
// first root file system. It is not compressed: the guest would take longer to
// unpack it than to read it.
func (t tree) writeCPIO(w io.Writer) error {
	out := cpio.Newc.Writer(w)
	for i, p := range slices.Sorted(maps.Keys(t)) {
		n := t[p]
		rec := cpio.Record{Info: cpio.Info{Name: p, Mode: n.mode, Ino: uint64(i + 1), NLink: 1}}
		if n.mode&cpio.S_IFMT == cpio.S_IFDIR {
			rec.NLink = 2
		} else {
			rec.FileSize = uint64(len(n.data))
			rec.ReaderAt = bytes.NewReader(n.data)
		}
		if err := out.WriteRecord(rec); err != nil {
			return fmt.Errorf("write initrd: /%s: %w", p, err)
		}
	}
	return cpio.WriteTrailer(out)
}
