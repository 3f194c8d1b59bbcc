package qmp

import (
	"bufio"
	"bytes"
	"strings"
	"testing"
)

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}`,
		`{"return": {}, "id": 1}`,
		`{"id": 18446744073709551615, "error": {"class": "GenericError", "desc": "no"}}`,
		`{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP", "data": {"a": [1]}}`,
		`{"event": null}`, `{"id": -1, "return": 1}`, `[]`, `null`, "",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := decode(line)
		set := 0
		for _, isSet := range []bool{m.greeting != nil, m.event != nil, m.reply != nil} {
			if isSet {
				set++
			}
		}
		if (err == nil) != (set == 1) {
			t.Fatalf("%d kinds at once, error %v", set, err)
		}
		if m.reply != nil {
			var v any
			_ = m.reply.into("x", &v) // must not panic
		}
	})
}

// FuzzReadLine checks that lines come out as they went in, however they lie across the buffer.
func FuzzReadLine(f *testing.F) {
	f.Add([]byte("a\nbb\n"), 16)
	f.Add([]byte(strings.Repeat("x", 100)+"\n"), 16)
	f.Fuzz(func(t *testing.T, stream []byte, size int) {
		in := bufio.NewReaderSize(bytes.NewReader(stream), size%64)
		var got []byte
		for {
			line, err := readLine(in)
			if err != nil {
				break
			}
			if len(line) == 0 || bytes.IndexByte(line, '\n') != len(line)-1 {
				t.Fatalf("line %q", line)
			}
			got = append(got, line...)
		}
		if want := stream[:bytes.LastIndexByte(stream, '\n')+1]; !bytes.Equal(got, want) {
			t.Fatalf("read %q of %q", got, stream)
		}
	})
}
