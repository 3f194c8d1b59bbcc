package guestimage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pierrec/lz4/v4"
)

func fakeModule(name string, depends ...string) []byte {
	return fakeELF{modinfo: "license=GPL\x00depends=" + strings.Join(depends, ",") + "\x00name=" + name + "\x00vermagic=6.1 SMP\x00"}.bytes()
}

func sign(ko []byte, signature string) []byte {
	trailer := make([]byte, signatureTrailer)
	binary.BigEndian.PutUint32(trailer[8:], uint32(len(signature)))
	return slices.Concat(ko, []byte(signature), trailer, []byte(signatureMagic))
}

func TestParseModinfo(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []byte
		want modinfo
		err  bool
	}{
		{"no dependencies", fakeModule("virtio"), modinfo{Name: "virtio"}, false},
		{"some, spelled with a dash", fakeModule("xfs", "libcrc32c", "crc-t10dif"), modinfo{"xfs", []string{"libcrc32c", "crc_t10dif"}}, false},
		{"name with a dash", fakeModule("virtio-rng"), modinfo{Name: "virtio_rng"}, false},
		{"no name", fakeELF{modinfo: "depends=a\x00"}.bytes(), modinfo{}, true},
		{"no section", fakeELF{}.bytes(), modinfo{}, true},
		{"no ELF file", []byte("#!/bin/sh"), modinfo{}, true},
		{"empty", nil, modinfo{}, true},
		{"cut off", fakeModule("virtio")[:100], modinfo{}, true},
	} {
		got, err := parseModinfo(c.in)
		if c.err != errors.Is(err, errModule) {
			t.Errorf("%s: error %v", c.name, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

func TestStripSignature(t *testing.T) {
	ko := fakeModule("virtio")
	for name, in := range map[string][]byte{"signed": sign(ko, "a signature"), "unsigned": ko} {
		if got, err := stripSignature(in); err != nil || !bytes.Equal(got, ko) {
			t.Errorf("%s: %d bytes of %d, error %v", name, len(got), len(ko), err)
		}
	}
	long := sign(ko, "a signature")
	binary.BigEndian.PutUint32(long[len(long)-len(signatureMagic)-4:], 1<<31)
	for name, in := range map[string][]byte{"longer than the file": long, "magic alone": []byte(signatureMagic)} {
		if got, err := stripSignature(in); !errors.Is(err, errModule) {
			t.Errorf("%s: %d bytes, error %v; want errModule", name, len(got), err)
		}
	}
}

func FuzzModule(f *testing.F) {
	f.Add(sign(fakeModule("xfs", "libcrc32c"), "signature"))
	f.Add(fakeModule("virtio"))
	f.Fuzz(func(t *testing.T, in []byte) {
		body, err := stripSignature(in)
		if err != nil {
			return
		}
		if !bytes.HasPrefix(in, body) {
			t.Fatal("stripping changed what it kept")
		}
		if m, err := parseModinfo(body); err == nil && (m.Name == "" || strings.Contains(m.Name, "-")) {
			t.Fatalf("name %q", m.Name)
		}
	})
}

// kernelPackage writes modules as an unpacked kernel package has them.
func kernelPackage(t *testing.T, builtin string, modules map[string][]string) string {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "lib/modules/6.1.0-test")
	if err := os.MkdirAll(filepath.Join(dir, "kernel/drivers"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, depends := range modules {
		if err := os.WriteFile(filepath.Join(dir, "kernel/drivers", name+".ko"), sign(fakeModule(name, depends...), "sig"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "modules.builtin"), []byte(builtin), 0o644); err != nil {
		t.Fatal(err)
	}
	return root
}

func TestModulesAreListedAfterWhatTheyDependOn(t *testing.T) {
	modules := map[string][]string{
		"virtio":      nil,
		"virtio-ring": {"virtio"},
		"virtio_pci":  {"virtio_ring", "virtio"},
		"virtio_blk":  {"virtio-ring", "virtio"},
		"xfs":         {"crc32c_generic"},
		"a":           {"b"},
		"b":           {"a"},
		"needs_gone":  {"gone"},
	}
	root := kernelPackage(t, "kernel/crypto/crc32c-generic.ko\nkernel/fs/ext4/ext4.ko\n", modules)
	for _, c := range []struct {
		name  string
		names []string
		want  string // space-separated names in order
		err   string
	}{
		{"shared dependencies come once", []string{"virtio_pci", "virtio_blk"}, "virtio virtio_ring virtio_pci virtio_blk", ""},
		{"built-in ones are left out", []string{"ext4", "xfs"}, "xfs", ""},
		{"either spelling", []string{"virtio-pci"}, "virtio virtio_ring virtio_pci", ""},
		{"a circle is refused", []string{"a"}, "", "circle: a → b → a"},
		{"a missing one is named", []string{"needs_gone"}, "", "kernel module gone"},
	} {
		set, err := newModuleSet(root)
		if err != nil {
			t.Fatal(err)
		}
		order, err := set.loadOrder(c.names)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: error %v, want %q", c.name, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var got []string
		for _, m := range order {
			got = append(got, m.info.Name)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, want %s", c.name, got, c.want)
		}
	}
}

func TestModulesReachTheImageUnsignedAndRareOnesCompressed(t *testing.T) {
	set, err := newModuleSet(kernelPackage(t, "", map[string][]string{
		"virtio": nil, "virtio_blk": {"virtio"}, "virtio_scsi": {"virtio", "scsi_mod"}, "scsi_mod": nil,
	}))
	if err != nil {
		t.Fatal(err)
	}
	tr := newTree()
	list, err := set.addModules(tr, map[string]moduleGroup{
		"scsi": {modules: []string{"virtio_scsi"}, rare: true},
		"boot": {modules: []string{"virtio_blk"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	const dir = "/lib/modules/6.1.0-test/kernel/drivers/"
	want := modulesList{
		"boot": {dir + "virtio.ko", dir + "virtio_blk.ko"},
		"scsi": {dir + "virtio.ko", dir + "scsi_mod.ko.lz4", dir + "virtio_scsi.ko.lz4"},
	}
	if diff := cmp.Diff(want, list); diff != "" {
		t.Error(diff)
	}
	if got := tr[clean(dir+"virtio.ko")].data; !bytes.Equal(got, fakeModule("virtio")) {
		t.Error("the image's module is not the package's without its signature")
	}
	packed := tr[clean(dir+"scsi_mod.ko.lz4")].data
	got, err := io.ReadAll(lz4.NewReader(bytes.NewReader(packed)))
	if err != nil || !bytes.Equal(got, fakeModule("scsi_mod")) {
		t.Errorf("the compressed module unpacks to %d bytes, error %v", len(got), err)
	}
}
