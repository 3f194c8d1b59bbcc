package pool

import (
	"fmt"
	"math"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// space keeps the pool's books: what it has promised to its volumes and snapshots, and whether it can promise more.
//
// Without over-commitment the promise is that everything can be written full at the same time: what the file system
// has left, plus what has been taken of it already, covers what all together may come to take. With an
// over-commitment of 3, three bytes are promised for each that there is; the operator bets that they are not all
// written. Two things hold even then: a single volume can be written full if the others leave it the room, and
// nothing is promised any more when the disk itself is nearly full.
//
// Whoever makes something that takes space books a promise first, and takes it back when the making fails or the
// thing is gone. What is already on the disk is found out by looking (holdings.go), only when it matters.
type space struct {
	root       *os.File
	overcommit float64 // what the operator allows, at least 1

	mu          sync.Mutex
	bookedBytes int64 // the sum of all promises' bookedBytes; guarded by mu
}

// promise is what the pool owes one volume or snapshot. The zero value is nothing.
type promise struct {
	// costBytes is what it takes of the disk when it is written full.
	costBytes int64
	// overcommit is how many bytes may be promised for each that there is.
	overcommit float64
}

func (p promise) bookedBytes() int64 {
	if p.overcommit <= 1 {
		return p.costBytes
	}
	return int64(math.Ceil(float64(p.costBytes) / p.overcommit))
}

// costBytes is what a volume written full takes of the pool's file system: its bytes, the maps that find them
// (at most one part in a thousand on ext4 and xfs, fragmentation included), and its folder.
func costBytes(sizeBytes int64) int64 { return sizeBytes + sizeBytes>>10 + 64*kib }

// largestSize is the inverse of costBytes, rounded down to a size a volume can have.
func largestSize(freeBytes int64) int64 {
	size := (freeBytes - 64*kib) / 1025 * 1024
	return max(0, size/alignBytes*alignBytes)
}

// change books what to needs more than from, or returns ErrNoSpace. taken says how much of all promises is on the
// disk already.
func (s *space) change(from, to promise, taken func() int64) error {
	return s.fit(from, to, true, taken)
}

// check is change without booking.
func (s *space) check(from, to promise, taken func() int64) error {
	return s.fit(from, to, false, taken)
}

// release takes a promise back.
func (s *space) release(p promise) { s.add(-p.bookedBytes()) }

// revert takes a change back.
func (s *space) revert(from, to promise) { s.add(from.bookedBytes() - to.bookedBytes()) }

// add books what exists already, whether it fits or not.
func (s *space) add(bookedBytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bookedBytes += bookedBytes
}

// fit asks for what is taken only when it has to: that takes time in proportion to the number of volumes, and is only
// needed when the pool is nearly full. Without it the answer is too low, never too high.
func (s *space) fit(from, to promise, book bool, taken func() int64) error {
	disk, err := s.disk()
	if err != nil {
		return err
	}
	if s.nearlyFull(disk) {
		return fmt.Errorf("%w: only %d of the disk's %d bytes are left, and the pool is over-committed (%gx): "+
			"nothing is promised before there is room again", ErrNoSpace, disk.leftBytes, disk.totalBytes, s.overcommit)
	}
	if s.fitIn(disk.leftBytes, from, to, book) {
		return nil
	}
	usableBytes := disk.leftBytes + taken()
	if s.fitIn(usableBytes, from, to, book) {
		return nil
	}
	if to.costBytes > usableBytes {
		return fmt.Errorf("%w: %d bytes are needed, the whole pool has room for %d", ErrNoSpace, to.costBytes, usableBytes)
	}
	return fmt.Errorf("%w: %d bytes are needed, %d are free and not promised to other volumes",
		ErrNoSpace, to.costBytes-from.costBytes, s.promisable(usableBytes, to.overcommit))
}

func (s *space) fitIn(usableBytes int64, from, to promise, book bool) bool {
	moreBytes := to.bookedBytes() - from.bookedBytes()
	s.mu.Lock()
	defer s.mu.Unlock()
	if to.costBytes > usableBytes || usableBytes-s.bookedBytes < moreBytes {
		return false
	}
	if book {
		s.bookedBytes += moreBytes
	}
	return true
}

// promisable is how many bytes can still be promised at that over-commitment, of a disk with so many for this pool.
func (s *space) promisable(usableBytes int64, overcommit float64) int64 {
	bytes := float64(max(0, usableBytes-s.booked())) * max(1, overcommit)
	return int64(min(bytes, math.MaxInt64/2)) // a file system may say that it has no end
}

func (s *space) booked() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bookedBytes
}

// diskSpace is what the pool's file system has, as an ordinary user sees it: root's reserve stays untouched.
type diskSpace struct{ totalBytes, leftBytes int64 }

func (s *space) disk() (diskSpace, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(s.root.Fd()), &fs); err != nil {
		return diskSpace{}, fmt.Errorf("ask the pool's file system for its free space: %w", err)
	}
	bytes := func(blocks uint64) int64 {
		if blocks > uint64(math.MaxInt64/max(1, fs.Frsize)) {
			return math.MaxInt64 / 2
		}
		return int64(blocks) * fs.Frsize
	}
	return diskSpace{totalBytes: bytes(fs.Blocks), leftBytes: bytes(fs.Bavail)}, nil
}

// nearlyFullPart is the part of the disk that an over-committed pool keeps for what it has promised already: a
// machine whose volume finds no room stands still, and with it the pod.
const nearlyFullPart = 20

// nearlyFull does not concern a pool that promises no more than it has: there the room that is left is accounted for.
func (s *space) nearlyFull(d diskSpace) bool {
	return s.overcommit > 1 && d.leftBytes < d.totalBytes/nearlyFullPart
}
