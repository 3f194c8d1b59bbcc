package pool

import (
	"context"
	"fmt"
	"math"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// space keeps the promise that every volume can be written full: what the pool's file system has left, plus what
// the images already take of it, must cover what all volumes together may come to take.
type space struct {
	root *os.File

	mu            sync.Mutex
	promisedBytes int64 // the sum of costBytes over all volumes; guarded by mu
}

// costBytes is what a volume written full takes of the pool's file system: its bytes, the maps that find them
// (at most one part in a thousand on ext4 and xfs, fragmentation included), and its folder.
func costBytes(sizeBytes int64) int64 { return sizeBytes + sizeBytes>>10 + 64*kib }

// largestSize is the inverse of costBytes, rounded down to a size a volume can have.
func largestSize(freeBytes int64) int64 {
	size := (freeBytes - 64*kib) / 1025 * 1024
	return max(0, size/alignBytes*alignBytes)
}

// reserve takes the space of one more volume.
func (s *space) reserve(sizeBytes int64, allocated func() int64) error {
	return s.take(costBytes(sizeBytes), allocated)
}

// grow takes what a larger volume needs more.
func (s *space) grow(fromBytes, toBytes int64, allocated func() int64) error {
	return s.take(costBytes(toBytes)-costBytes(fromBytes), allocated)
}

func (s *space) release(sizeBytes int64) { s.give(costBytes(sizeBytes)) }

func (s *space) shrink(fromBytes, toBytes int64) { s.give(costBytes(fromBytes) - costBytes(toBytes)) }

func (s *space) give(bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.promisedBytes -= bytes
}

func (s *space) take(bytes int64, allocated func() int64) error {
	return s.fit(bytes, bytes, allocated)
}

// check is take without taking.
func (s *space) check(bytes int64, allocated func() int64) error { return s.fit(bytes, 0, allocated) }

// fit returns ErrNoSpace unless bytes can be promised, and then books so many.
//
// Asking every image how much it has allocated takes time in proportion to their number, and is only needed when
// the pool is nearly full: without it the answer is too low, never too high.
func (s *space) fit(bytes, book int64, allocated func() int64) error {
	leftBytes, err := s.leftBytes()
	if err != nil {
		return err
	}
	if s.fitIn(leftBytes, bytes, book) {
		return nil
	}
	leftBytes += allocated()
	if s.fitIn(leftBytes, bytes, book) {
		return nil
	}
	return fmt.Errorf("%w: %d bytes are needed, %d are free and not promised to other volumes",
		ErrNoSpace, bytes, max(0, leftBytes-s.promised()))
}

func (s *space) fitIn(leftBytes, bytes, book int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if leftBytes-s.promisedBytes < bytes {
		return false
	}
	s.promisedBytes += book
	return true
}

func (s *space) promised() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.promisedBytes
}

// leftBytes is what the pool's file system can still take from an ordinary user: root's reserve stays untouched.
func (s *space) leftBytes() (int64, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(s.root.Fd()), &fs); err != nil {
		return 0, fmt.Errorf("ask the pool's file system for its free space: %w", err)
	}
	if fs.Bavail > uint64(math.MaxInt64/max(1, fs.Frsize)) {
		return math.MaxInt64 / 2, nil
	}
	return int64(fs.Bavail) * fs.Frsize, nil
}

// allocatedBytes sums up how much of what is promised the images have already taken.
func (p *Pool) allocatedBytes() int64 {
	var sum int64
	for _, v := range p.List(context.Background()) {
		sum += min(p.allocatedBytesOf(v.ID), costBytes(v.SizeBytes))
	}
	return sum
}

// allocatedBytesOf is what one volume's image takes on the disk; nothing when it cannot be found out.
func (p *Pool) allocatedBytesOf(id string) int64 {
	f, err := openFolder(p.root, id)
	if err != nil {
		return 0
	}
	defer f.close()
	size, err := f.imageSize()
	if err != nil {
		return 0
	}
	return size.allocatedBytes
}

// Usage returns how many bytes of the volume's size are in use in the pool: what the guest has written at some time
// and not discarded. It says nothing about free space in the guest's file system.
func (p *Pool) Usage(ctx context.Context, id string) (usedBytes int64, err error) {
	v, err := p.Get(ctx, id)
	if err != nil {
		return 0, err
	}
	return min(p.allocatedBytesOf(id), v.SizeBytes), nil
}

// Capacity is what a pool has room for.
type Capacity struct {
	AvailableBytes     int64 // the largest volume that can be made now, 0 if none can
	MinimumVolumeBytes int64 // the smallest with that file system
	MaximumVolumeBytes int64 // the largest with that file system that can be made now
}

// Capacity returns what the pool has room for in volumes with that file system.
func (p *Pool) Capacity(_ context.Context, fsType string) (Capacity, error) {
	fs, known := fileSystems[fsType]
	if !known {
		return Capacity{}, unknownFileSystem(fsType)
	}
	leftBytes, err := p.space.leftBytes()
	if err != nil {
		return Capacity{}, err
	}
	available := largestSize(leftBytes + p.allocatedBytes() - p.space.promised())
	if available < fs.minBytes {
		available = 0
	}
	return Capacity{
		AvailableBytes:     available,
		MinimumVolumeBytes: fs.minBytes,
		MaximumVolumeBytes: min(available, fs.maxBytes),
	}, nil
}

// Check reports whether the pool's file system answers.
func (p *Pool) Check(context.Context) error {
	_, err := p.space.leftBytes()
	return err
}
