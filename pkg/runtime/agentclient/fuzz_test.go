package agentclient

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// What the guest sends is looked at as it comes in, in pieces of any size. The verdict must not depend on them, and no
// message that is too large may pass.
func FuzzFrames(f *testing.F) {
	message := func(length uint32, body int) []byte {
		return append(binary.BigEndian.AppendUint32(nil, length), make([]byte, 6+body)...)
	}
	f.Add(message(0, 0), 1)
	f.Add(message(3, 3), 2)
	f.Add(append(message(5, 5), message(1<<32-1, 0)...), 7)
	f.Add(append(message(maxMessageBytes, maxMessageBytes), message(maxMessageBytes+1, 20)...), 4096)
	f.Add([]byte{0xff}, 1)
	f.Fuzz(func(t *testing.T, stream []byte, piece int) {
		if piece < 1 {
			piece = 1
		}
		want := tooLarge(stream)
		var whole, pieces frames
		gotWhole := whole.see(stream) != nil
		gotPieces := false
		for rest := stream; len(rest) > 0 && !gotPieces; {
			n := min(piece, len(rest))
			gotPieces = pieces.see(rest[:n]) != nil
			rest = rest[n:]
		}
		if gotWhole != want || gotPieces != want {
			t.Errorf("too large: %v in one piece, %v in pieces of %d, want %v", gotWhole, gotPieces, piece, want)
		}
	})
}

// tooLarge says the same in the plainest way.
func tooLarge(stream []byte) bool {
	for len(stream) >= 10 {
		length := uint64(binary.BigEndian.Uint32(stream))
		if length > maxMessageBytes {
			return true
		}
		if uint64(len(stream)) < 10+length {
			return false
		}
		stream = stream[10+length:]
	}
	return false
}

func FuzzReadable(f *testing.F) {
	for _, text := range []string{
		"", "plain\nand\ttab", "\x1b[2J\x1b]0;title\x07", "\xff\xfe", "\u202egnp.exe", "\u2028\u2029\u0085", "\x00\r\n", "é\u200b",
		strings.Repeat("ü", maxMessage),
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := readable(text, maxMessage)
		if len(got) > maxMessage || !utf8.ValidString(got) {
			t.Errorf("%d bytes, valid: %v", len(got), utf8.ValidString(got))
		}
		for _, r := range got {
			if !unicode.IsGraphic(r) && r != '\n' && r != '\t' {
				t.Errorf("%q is left", r)
			}
		}
		printable := func(r rune) bool { return unicode.IsGraphic(r) || r == '\n' || r == '\t' }
		if len(text) <= maxMessage && utf8.ValidString(text) && strings.IndexFunc(text, func(r rune) bool { return !printable(r) }) < 0 {
			if !bytes.Equal([]byte(got), []byte(text)) {
				t.Errorf("%q has become %q", text, got)
			}
		}
	})
}
