package guest_test

import (
	"bytes"
	"debug/elf"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"testing"
)

// A container can fill its pipe with pages that hold nothing: a write from an address that is not there takes a page and
// fails. The kernel's own way from a pipe to a port does not expect those, so what a container writes is copied.
func TestPagesThatHoldNothingHarmNoOutput(t *testing.T) {
	const lines, between = 2000, 40
	m := theMachine(t)
	program := base64.StdEncoding.EncodeToString(emptyWriter(lines, between))
	s := spec(fmt.Sprintf("echo %s | base64 -d >/tmp/p; chmod +x /tmp/p; exec /tmp/p", program))
	check := func(t *testing.T, c *containerIn, out string) {
		t.Helper()
		wantCounts(t, "standard output", out, lines, 1)
		if status := c.wait(c.id); status != 0 {
			t.Errorf("status %d", status)
		}
	}
	eachWay(t, func(t *testing.T, piece uint32) {
		c := m.create(t, s).start()
		check(t, c, c.readAllBy(piece, c.id, m.agent.ReadStdout))
	})
	t.Run("sent without being asked for", func(t *testing.T) {
		c := m.create(t, s).start()
		check(t, c, c.pour(m.agent.Stdout(t.Context(), c.id, c.id)))
	})
}

// emptyWriter is a program that writes "1\n" so many times, and before each fails to write three pages so many times.
func emptyWriter(lines, between uint32) []byte {
	var code bytes.Buffer
	emit := func(opcode string, operand ...uint32) {
		code.WriteString(opcode)
		_ = binary.Write(&code, binary.LittleEndian, operand)
	}
	write := func(address string, bytes uint32) {
		emit("\xb8", 1) // mov eax, write
		emit("\xbf", 1) // mov edi, standard output
		code.WriteString(address)
		emit("\xba", bytes) // mov edx, bytes
		emit("\x0f\x05")    // syscall
	}
	back := func(to int) { emit("\x0f\x85", uint32(int32(to-code.Len()-6))) } // jnz to
	emit("\x68", 0x0a31)                                                      // push "1\n"
	emit("\x41\xbc", lines)                                                   // mov r12d, lines
	line := code.Len()
	emit("\xbb", between) // mov ebx, between
	try := code.Len()
	write("\x31\xf6", 3*4096) // xor esi, esi
	emit("\xff\xcb")          // dec ebx
	back(try)
	write("\x48\x89\xe6", 2) // mov rsi, rsp
	emit("\x41\xff\xcc")     // dec r12d
	back(line)
	emit("\xb8", 60)              // mov eax, exit
	emit("\x31\xff" + "\x0f\x05") // xor edi, edi; syscall

	const base, headers = 0x400000, 64 + 56
	var file bytes.Buffer
	_ = binary.Write(&file, binary.LittleEndian, elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Entry: base + headers, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	})
	_ = binary.Write(&file, binary.LittleEndian, elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: base, Paddr: base,
		Filesz: headers + uint64(code.Len()), Memsz: headers + uint64(code.Len()), Align: 4096,
	})
	file.Write(code.Bytes())
	return file.Bytes()
}
