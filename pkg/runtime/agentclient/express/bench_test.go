package express

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

const pieceBytes = 1 << 20

// BenchmarkSocketToFifo passes on what comes as QEMU writes it, a page at a time, to a fifo with a reader, and in
// comparison what a stream costs that is only read.
func BenchmarkSocketToFifo(b *testing.B) {
	b.Run("express", func(b *testing.B) {
		c, _, g := connect(b)
		go sendInPages(g, b.N)
		path := filepath.Join(b.TempDir(), "fifo")
		if err := unix.Mkfifo(path, 0o600); err != nil {
			b.Fatal(err)
		}
		to := &fifoSink{}
		var err error
		if to.File, err = os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0); err != nil {
			b.Fatal(err)
		}
		defer to.Close()
		_, _ = unix.FcntlInt(to.Fd(), unix.F_SETPIPE_SZ, pieceBytes)
		_ = unix.SetNonblock(int(to.Fd()), true)
		reader, err := unix.Open(path, unix.O_RDONLY, 0)
		if err != nil {
			b.Fatal(err)
		}
		read := make(chan struct{})
		go func() {
			defer close(read)
			buf := make([]byte, 1<<20)
			for left := b.N * pieceBytes; left > 0; {
				n, err := unix.Read(reader, buf)
				if err != nil {
					b.Error(err)
					return
				}
				left -= n
			}
		}()
		b.SetBytes(pieceBytes)
		b.ReportAllocs()
		b.ResetTimer()
		if _, err := c.Copy(b.Context(), stream, to); err != nil {
			b.Error(err)
		}
		<-read
	})
	for name, size := range map[string]int{"raw, pages": 4 << 10, "raw, 32 KiB": 32 << 10} {
		b.Run(name, func(b *testing.B) {
			here, there := pair(b)
			go writePieces(there, b.N*pieceBytes, size)
			b.SetBytes(pieceBytes)
			b.ResetTimer()
			if _, err := io.CopyN(io.Discard, here, int64(b.N)*pieceBytes); err != nil {
				b.Error(err)
			}
		})
	}
}

type fifoSink struct{ *os.File }

func (s *fifoSink) TryWrite(p []byte) (taken int) {
	raw, err := s.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		for taken < len(p) {
			n, err := unix.Write(int(fd), p[taken:])
			if err != nil {
				return
			}
			taken += n
		}
	})
	return taken
}

// sendInPages sends so many MiB, in frames as large as there is credit for.
func sendInPages(g guest, mib int) {
	id, req := g.opened()
	credit := int(req.GetCredit())
	for left := mib * pieceBytes; left > 0; {
		piece := min(left, credit, pieceBytes) &^ (4<<10 - 1)
		if piece == 0 {
			credit += g.credit(id)
			continue
		}
		start := output(id, make([]byte, piece))
		g.say(start[:len(start)-piece])
		writePieces(g, piece, 4<<10)
		credit, left = credit-piece, left-piece
	}
	g.say(end(id))
	_, _ = io.Copy(io.Discard, g)
}

func writePieces(to net.Conn, bytes, size int) {
	piece := make([]byte, size)
	for ; bytes > 0; bytes -= size {
		if _, err := to.Write(piece); err != nil {
			return
		}
	}
}
