package pool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// foundVolume is what was read of one folder: a volume, or why there is none.
type foundVolume struct {
	volume             Volume
	readOnly, attached bool
	err                error
}

// readVolumes reads the folders of all volumes, on all processors: a node's pods wait while the driver starts.
func (p *Pool) readVolumes(ctx context.Context, ids []string) ([]foundVolume, error) {
	found := make([]foundVolume, len(ids))
	workers := min(max(1, runtime.GOMAXPROCS(0)), max(1, len(ids)))
	g, ctx := errgroup.WithContext(ctx)
	for w := range workers {
		g.Go(func() error {
			buffer := make([]byte, maxMetaBytes+1)
			for i := w; i < len(ids); i += workers {
				if err := ctx.Err(); err != nil {
					return err
				}
				if found[i] = p.readVolume(ids[i], buffer); found[i].err != nil {
					found[i].err = p.whatIsWrong(ids[i])
				}
			}
			return nil
		})
	}
	return found, g.Wait()
}

// readVolume reads a folder with as few system calls as that takes, and without asking why when it cannot.
func (p *Pool) readVolume(id string, buffer []byte) (found foundVolume) {
	dir, err := openFD(int(p.root.Fd()), id, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return foundVolume{err: err}
	}
	defer unix.Close(dir)
	m, err := readMetaAt(dir, id, buffer)
	if err != nil {
		return foundVolume{err: err}
	}
	size, err := imageSizeAt(dir)
	if err != nil {
		return foundVolume{err: err}
	}
	found.volume = p.volume(id, m, size.lengthBytes)
	found.readOnly, found.attached = readAttached(dir)
	return found
}

func readMetaAt(dir int, id string, buffer []byte) (meta, error) {
	file, err := openFD(dir, metaName, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return meta{}, err
	}
	defer unix.Close(file)
	length := 0
	for length < len(buffer) {
		n, err := unix.Read(file, buffer[length:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return meta{}, fmt.Errorf("read %s: %w", metaName, err)
		}
		if length += n; n == 0 || buffer[length-1] == metaEnd {
			break // its last byte saves the question whether there is more
		}
	}
	return parseMeta(id, buffer[:length])
}

// openFD is openBelow without an os.File around what was opened, which would cost as much again.
func openFD(dir int, name string, flags uint64) (int, error) {
	how := unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(dir, name, &how)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return -1, &os.PathError{Op: "open", Path: name, Err: err}
		}
		return fd, nil
	}
}
