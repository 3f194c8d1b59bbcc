package guestimage

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// errModule is wrapped by errors about a file that is no kernel module.
var errModule = errors.New("kernel module not understood")

// modinfo is what a module says about itself in its .modinfo section.
type modinfo struct {
	Name    string
	Depends []string // names of modules that must be loaded before
}

// parseModinfo reads the .modinfo section of a module: strings of the form
// key=value, each ended by a zero byte.
func parseModinfo(ko []byte) (modinfo, error) {
	f, err := elf.NewFile(bytes.NewReader(ko))
	if err != nil {
		return modinfo{}, fmt.Errorf("%w: %w", errModule, err)
	}
	s := f.Section(".modinfo")
	if s == nil {
		return modinfo{}, fmt.Errorf("%w: no .modinfo section", errModule)
	}
	data, err := s.Data()
	if err != nil {
		return modinfo{}, fmt.Errorf("%w: .modinfo: %w", errModule, err)
	}
	var m modinfo
	for field := range strings.SplitSeq(string(data), "\x00") {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "name":
			m.Name = moduleName(value)
		case "depends":
			for d := range strings.SplitSeq(value, ",") {
				if d != "" {
					m.Depends = append(m.Depends, moduleName(d))
				}
			}
		}
	}
	if m.Name == "" {
		return modinfo{}, fmt.Errorf("%w: .modinfo names no module", errModule)
	}
	return m, nil
}

// moduleName gives the one spelling of a name that may be written with - or _.
func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

// signatureMagic ends a signed module. Before it stands struct
// module_signature (include/linux/module_signature.h): 8 bytes, then the
// signature's length as a big-endian u32; before that the signature.
const (
	signatureMagic   = "~Module signature appended~\n"
	signatureTrailer = 12
)

// stripSignature returns the module without its appended signature: the guest
// does not check it, and it is a tenth of what must be read at boot.
func stripSignature(ko []byte) ([]byte, error) {
	body, signed := bytes.CutSuffix(ko, []byte(signatureMagic))
	if !signed {
		return ko, nil
	}
	if len(body) < signatureTrailer {
		return nil, fmt.Errorf("%w: signature cut off", errModule)
	}
	n := uint64(binary.BigEndian.Uint32(body[len(body)-4:])) + signatureTrailer
	if n > uint64(len(body)) {
		return nil, fmt.Errorf("%w: signature of %d bytes in a file of %d", errModule, n, len(ko))
	}
	return body[:uint64(len(body))-n], nil
}
