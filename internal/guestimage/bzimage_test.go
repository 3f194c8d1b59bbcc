package guestimage

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/pierrec/lz4/v4"
)

// packLegacy makes a payload as the kernel's build does: legacy LZ4 frame,
// then the plain length.
func packLegacy(t testing.TB, plain []byte) []byte {
	t.Helper()
	out := binary.LittleEndian.AppendUint32(nil, lz4LegacyMagic)
	for rest := plain; len(rest) > 0; {
		n := min(len(rest), lz4LegacyBlock)
		packed := make([]byte, lz4.CompressBlockBound(n))
		m, err := lz4.CompressBlock(rest[:n], packed, nil)
		if err != nil {
			t.Fatal(err)
		}
		out = binary.LittleEndian.AppendUint32(out, uint32(m))
		out = append(out, packed[:m]...)
		rest = rest[n:]
	}
	return binary.LittleEndian.AppendUint32(out, uint32(len(plain)))
}

// bzImage wraps a payload in a boot header with setupSects sectors of setup.
func bzImage(payload []byte, setupSects byte, version uint16) []byte {
	const gap = 16 // of protected-mode code before the payload
	sects := int(setupSects)
	if sects == 0 {
		sects = 4
	}
	b := make([]byte, (sects+1)*512+gap)
	b[offSetupSects] = setupSects
	copy(b[offHeaderMagic:], "HdrS")
	binary.LittleEndian.PutUint16(b[offVersion:], version)
	binary.LittleEndian.PutUint32(b[offPayloadOffset:], gap)
	binary.LittleEndian.PutUint32(b[offPayloadLength:], uint32(len(payload)))
	return append(append(b, payload...), "certificate table"...)
}

func kernelELF() []byte { return fakeELF{typ: elf.ET_EXEC}.bytes() }

func TestExtractVmlinuxGivesTheELFFileWithoutWhatFollowsIt(t *testing.T) {
	want := kernelELF()
	big := append(bytes.Clone(want), bytes.Repeat([]byte("relocations"), lz4LegacyBlock/8)...) // more than one block
	for _, sects := range []byte{0, 1, 39} {
		got, err := extractVmlinux(bzImage(packLegacy(t, big), sects, 0x020f))
		if err != nil {
			t.Errorf("%d setup sectors: %v", sects, err)
		} else if !bytes.Equal(got, want) {
			t.Errorf("%d setup sectors: %d bytes, want %d", sects, len(got), len(want))
		}
	}
}

func TestExtractVmlinuxRefusesWhatIsNoKernel(t *testing.T) {
	good := packLegacy(t, kernelELF())
	edit := func(b []byte, at int, v uint32) []byte {
		b = bytes.Clone(b)
		binary.LittleEndian.PutUint32(b[at:], v)
		return b
	}
	whole := bzImage(good, 1, 0x020f)
	for name, in := range map[string][]byte{
		"empty":                       nil,
		"cut off in the header":       whole[:headerEnd-1],
		"no magic":                    edit(whole, offHeaderMagic, 0),
		"protocol without payload":    bzImage(good, 1, 0x0207),
		"payload outside the file":    edit(whole, offPayloadOffset, 1<<31),
		"payload longer than file":    edit(whole, offPayloadLength, 0xffffffff),
		"another compression":         bzImage([]byte("\x28\xb5\x2f\xfd and so on"), 1, 0x020f),
		"tiny payload":                bzImage([]byte("x"), 1, 0x020f),
		"block longer than payload":   bzImage(edit(good, 4, 1<<30), 1, 0x020f),
		"plain length too large":      bzImage(edit(good, len(good)-4, 0xffffffff), 1, 0x020f),
		"plain length too small":      bzImage(edit(good, len(good)-4, 1), 1, 0x020f),
		"plain length off by one":     bzImage(edit(good, len(good)-4, uint32(len(kernelELF())+1)), 1, 0x020f),
		"block cut off":               bzImage(append(bytes.Clone(good[:len(good)-6]), good[len(good)-4:]...), 1, 0x020f),
		"payload is no ELF file":      bzImage(packLegacy(t, []byte("not a kernel at all, I am afraid")), 1, 0x020f),
		"kernel of another machine":   bzImage(packLegacy(t, fakeELF{machine: elf.EM_AARCH64}.bytes()), 1, 0x020f),
		"ELF file cut off in content": bzImage(packLegacy(t, edit(kernelELF(), 40, 1<<20)), 1, 0x020f),
	} {
		if got, err := extractVmlinux(in); !errors.Is(err, errKernelFormat) {
			t.Errorf("%s: %d bytes, error %v; want errKernelFormat", name, len(got), err)
		}
	}
}

func FuzzExtractVmlinux(f *testing.F) {
	f.Add(bzImage(packLegacy(f, kernelELF()), 1, 0x020f))
	f.Fuzz(func(t *testing.T, in []byte) {
		out, err := extractVmlinux(in)
		if err != nil {
			if !errors.Is(err, errKernelFormat) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		if _, err := elf.NewFile(bytes.NewReader(out)); err != nil {
			t.Fatalf("result is no ELF file: %v", err)
		}
	})
}
