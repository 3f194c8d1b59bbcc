// Package wal is a log as a database would keep it: numbered records, each with a checksum, each durable before the
// next. Command writer writes it in a guest, and the tests read it in copies of the guest's disks.
package wal

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Record is the line of a number. Its length varies, so that records cross the borders of blocks anywhere.
func Record(n int) []byte {
	payload := strings.Repeat(fmt.Sprintf("%08d", n), 1+n%97)
	return fmt.Appendf(nil, "%d %s %x\n", n, payload, sha256.Sum256(fmt.Append(nil, n, payload)))
}

// Append writes a record to the end of the file and makes it durable.
func Append(f *os.File, n int) error {
	if _, err := f.Write(Record(n)); err != nil {
		return err
	}
	return f.Sync()
}

// Read returns how many records a log has: 1, 2, 3 … without a gap, each whole. Anything else in it is an error.
func Read(r io.Reader) (int, error) {
	in := bufio.NewReader(r)
	for n := 0; ; n++ {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return n, nil
		}
		if err != nil {
			return n, fmt.Errorf("record %d is cut off after %d bytes: %w", n+1, len(line), err)
		}
		if !bytes.Equal(line, Record(n+1)) {
			return n, fmt.Errorf("record %d is %.60q…", n+1, line)
		}
	}
}
