package guestimage

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

// fakeELF describes a small ELF file for tests: only what the package reads.
type fakeELF struct {
	machine elf.Machine // zero: x86-64
	typ     elf.Type    // zero: program
	interp  string
	needed  []string
	modinfo string // content of .modinfo, if not empty
}

// bytes lays the file out: header, program header, section contents, section
// headers.
func (f fakeELF) bytes() []byte {
	if f.machine == 0 {
		f.machine = elf.EM_X86_64
	}
	if f.typ == 0 {
		f.typ = elf.ET_DYN
	}
	type section struct {
		name string
		typ  elf.SectionType
		data []byte
		link uint32
	}
	sections := []section{{}}
	if f.modinfo != "" {
		sections = append(sections, section{name: ".modinfo", typ: elf.SHT_PROGBITS, data: []byte(f.modinfo)})
	}
	if len(f.needed) > 0 {
		dynstr := []byte{0}
		var dynamic bytes.Buffer
		for _, n := range f.needed {
			write(&dynamic, elf.Dyn64{Tag: int64(elf.DT_NEEDED), Val: uint64(len(dynstr))})
			dynstr = append(append(dynstr, n...), 0)
		}
		write(&dynamic, elf.Dyn64{Tag: int64(elf.DT_NULL)})
		at := uint32(len(sections))
		sections = append(sections,
			section{name: ".dynstr", typ: elf.SHT_STRTAB, data: dynstr},
			section{name: ".dynamic", typ: elf.SHT_DYNAMIC, data: dynamic.Bytes(), link: at})
	}
	names := []byte{0}
	var nameOffsets []uint32
	sections = append(sections, section{name: ".shstrtab", typ: elf.SHT_STRTAB})
	for _, s := range sections {
		nameOffsets = append(nameOffsets, uint32(len(names)))
		names = append(append(names, s.name...), 0)
	}
	sections[len(sections)-1].data = names

	const headerSize, progSize, sectionSize = 64, 56, 64
	var progs []elf.Prog64
	body := []byte(f.interp)
	if f.interp != "" {
		body = append(body, 0)
		progs = []elf.Prog64{{Type: uint32(elf.PT_INTERP), Off: headerSize + progSize, Filesz: uint64(len(body)), Memsz: uint64(len(body))}}
	}
	start := uint64(headerSize + progSize*len(progs))
	var table []elf.Section64
	for i, s := range sections {
		table = append(table, elf.Section64{Name: nameOffsets[i], Type: uint32(s.typ), Off: start + uint64(len(body)), Size: uint64(len(s.data)), Link: s.link})
		body = append(body, s.data...)
	}
	h := elf.Header64{
		Type: uint16(f.typ), Machine: uint16(f.machine), Version: uint32(elf.EV_CURRENT),
		Ehsize: headerSize, Phentsize: progSize, Phnum: uint16(len(progs)), Phoff: headerSize,
		Shentsize: sectionSize, Shnum: uint16(len(table)), Shoff: start + uint64(len(body)), Shstrndx: uint16(len(table) - 1),
	}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS] = byte(elf.ELFCLASS64)
	h.Ident[elf.EI_DATA] = byte(elf.ELFDATA2LSB)
	h.Ident[elf.EI_VERSION] = byte(elf.EV_CURRENT)
	var out bytes.Buffer
	write(&out, h)
	for _, p := range progs {
		write(&out, p)
	}
	out.Write(body)
	for _, s := range table {
		write(&out, s)
	}
	return out.Bytes()
}

func write(b *bytes.Buffer, v any) {
	if err := binary.Write(b, binary.LittleEndian, v); err != nil {
		panic(err)
	}
}
