package pool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// copyChunkBytes is how much is copied between two looks at whether the copy is still wanted.
	copyChunkBytes = 16 * mib
	// progressEvery is how often a long copy says how far it is.
	progressEvery = 10 * time.Second
)

// copySparse copies the data of one image into another, which is as long and has none yet, and leaves the holes. The
// kernel moves the bytes; the target is not durable yet.
func copySparse(ctx context.Context, to, from *os.File, log *slog.Logger) error {
	info, err := from.Stat()
	if err != nil {
		return err
	}
	var (
		copied int64
		said   = time.Now()
	)
	for at := int64(0); ; {
		start, end, err := nextData(from, at)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for at = start; at < end; {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("after %d bytes: %w", copied, context.Cause(ctx))
			}
			n, err := copyRange(to, from, at, min(end-at, copyChunkBytes))
			if err != nil {
				return err
			}
			at += n
			copied += n
			if time.Since(said) >= progressEvery {
				said = time.Now()
				log.InfoContext(ctx, "copying an image", "at", at, "length", info.Size(), "copied", copied)
			}
		}
	}
}

// nextData returns the next range of the file that is no hole, from offset at on; io.EOF when there is none.
func nextData(f *os.File, at int64) (start, end int64, err error) {
	start, err = unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return 0, 0, io.EOF
	}
	if err == nil {
		end, err = unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
	}
	if err != nil {
		return 0, 0, &os.PathError{Op: "look for holes", Path: f.Name(), Err: err}
	}
	return start, end, nil
}

func copyRange(to, from *os.File, at, length int64) (int64, error) {
	in, out := at, at
	n, err := unix.CopyFileRange(int(from.Fd()), &in, int(to.Fd()), &out, int(length), 0)
	switch {
	case errors.Is(err, unix.EINTR):
		return 0, nil
	case err != nil:
		return 0, &os.PathError{Op: "copy", Path: from.Name(), Err: err}
	case n == 0:
		return 0, fmt.Errorf("copy %s: it ends at %d, before its data does", from.Name(), at)
	}
	return int64(n), nil
}

// punchHoles gives back what is allocated in an image and was never written.
func punchHoles(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	for at := int64(0); at < info.Size(); {
		start, end, err := nextData(f, at)
		if errors.Is(err, io.EOF) {
			start, end = info.Size(), info.Size()
		} else if err != nil {
			return err
		}
		if start > at {
			const mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
			if err := unix.Fallocate(int(f.Fd()), mode, at, start-at); err != nil {
				return &os.PathError{Op: "punch holes", Path: f.Name(), Err: err}
			}
		}
		at = end
	}
	return nil
}
