package guestimage

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/pierrec/lz4/v4"
)

// errKernelFormat is wrapped by every error about a kernel file that is not
// what the boot protocol says, or is compressed in another way than LZ4.
var errKernelFormat = errors.New("kernel image not understood")

// Offsets in a bzImage, and what stands there: Documentation/arch/x86/boot.rst
// in the kernel's source.
const (
	offSetupSects    = 0x1f1 // u8: 512-byte sectors of real-mode code, less the boot sector
	offHeaderMagic   = 0x202 // "HdrS"
	offVersion       = 0x206 // u16: boot protocol version
	offPayloadOffset = 0x248 // u32: payload, from the start of the protected-mode code
	offPayloadLength = 0x24c // u32: length of the payload
	headerEnd        = 0x250

	versionWithPayload = 0x0208 // the first version that has the payload fields
)

// The legacy LZ4 frame: a magic number, then blocks of at most 8 MiB of plain
// data, each after its compressed length as a little-endian u32. The kernel's
// build appends the plain length of the whole as one more u32.
const (
	lz4LegacyMagic = 0x184c2102
	lz4LegacyBlock = 8 << 20
)

// lz4MaxRatio is the most that LZ4 can save: a byte of length stands for 255.
const lz4MaxRatio = 255

// maxKernelBytes bounds what a kernel may unpack to, so that a damaged length
// cannot exhaust memory. Today's kernels are around 50 MiB.
const maxKernelBytes = 512 << 20

// extractVmlinux returns the ELF kernel inside a bzImage with an LZ4 payload.
// Booting it directly saves the guest the unpacking.
func extractVmlinux(bzImage []byte) ([]byte, error) {
	payload, err := bzImagePayload(bzImage)
	if err != nil {
		return nil, err
	}
	plain, err := unpackLZ4Legacy(payload)
	if err != nil {
		return nil, err
	}
	return trimELF(plain)
}

// bzImagePayload finds the compressed kernel by the boot header's fields.
func bzImagePayload(b []byte) ([]byte, error) {
	if len(b) < headerEnd || string(b[offHeaderMagic:offHeaderMagic+4]) != "HdrS" {
		return nil, fmt.Errorf("%w: no x86 boot header", errKernelFormat)
	}
	if v := binary.LittleEndian.Uint16(b[offVersion:]); v < versionWithPayload {
		return nil, fmt.Errorf("%w: boot protocol %d.%02d does not say where the payload is", errKernelFormat, v>>8, v&0xff)
	}
	setup := uint64(b[offSetupSects])
	if setup == 0 {
		setup = 4 // the protocol's words for a kernel that leaves it out
	}
	start := (setup+1)*512 + uint64(binary.LittleEndian.Uint32(b[offPayloadOffset:]))
	end := start + uint64(binary.LittleEndian.Uint32(b[offPayloadLength:]))
	if start > uint64(len(b)) || end > uint64(len(b)) {
		return nil, fmt.Errorf("%w: payload at %d..%d of a file of %d bytes", errKernelFormat, start, end, len(b))
	}
	return b[start:end], nil
}

// unpackLZ4Legacy unpacks a legacy frame followed by its plain length.
func unpackLZ4Legacy(p []byte) ([]byte, error) {
	if len(p) < 8 || binary.LittleEndian.Uint32(p) != lz4LegacyMagic {
		return nil, fmt.Errorf("%w: payload is not LZ4", errKernelFormat)
	}
	want := uint64(binary.LittleEndian.Uint32(p[len(p)-4:]))
	p = p[4 : len(p)-4]
	if want > maxKernelBytes || want > lz4MaxRatio*uint64(len(p)) {
		return nil, fmt.Errorf("%w: says that %d bytes unpack to %d", errKernelFormat, len(p), want)
	}
	var out []byte
	block := make([]byte, min(want, lz4LegacyBlock))
	for len(p) > 0 {
		if len(p) < 4 {
			return nil, fmt.Errorf("%w: block header cut off", errKernelFormat)
		}
		n := uint64(binary.LittleEndian.Uint32(p))
		p = p[4:]
		if n > uint64(len(p)) {
			return nil, fmt.Errorf("%w: block of %d bytes, %d left", errKernelFormat, n, len(p))
		}
		m, err := lz4.UncompressBlock(p[:n], block)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errKernelFormat, err)
		}
		if uint64(len(out)+m) > want {
			return nil, fmt.Errorf("%w: unpacks to more than the %d bytes it names", errKernelFormat, want)
		}
		out = append(out, block[:m]...)
		p = p[n:]
	}
	if uint64(len(out)) != want {
		return nil, fmt.Errorf("%w: unpacks to %d bytes, not %d", errKernelFormat, len(out), want)
	}
	return out, nil
}

// trimELF cuts what the kernel's build appends to the ELF file (the relocation
// table, of use only to the unpacker left behind in the bzImage).
func trimELF(b []byte) ([]byte, error) {
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("%w: payload is no ELF file: %w", errKernelFormat, err)
	}
	if f.Machine != elf.EM_X86_64 || f.Class != elf.ELFCLASS64 {
		return nil, fmt.Errorf("%w: kernel is for %v", errKernelFormat, f.Machine)
	}
	le := binary.LittleEndian
	shoff, shentsize, shnum := le.Uint64(b[40:]), le.Uint16(b[58:]), le.Uint16(b[60:])
	end := shoff + uint64(shentsize)*uint64(shnum)
	for _, p := range f.Progs {
		end = max(end, p.Off+p.Filesz)
	}
	for _, s := range f.Sections {
		if s.Type != elf.SHT_NOBITS {
			end = max(end, s.Offset+s.FileSize)
		}
	}
	if end > uint64(len(b)) {
		return nil, fmt.Errorf("%w: ELF file of %d bytes cut off at %d", errKernelFormat, end, len(b))
	}
	return b[:end], nil
}
