package pool

import (
	"os"

	"golang.org/x/sys/unix"
)

// diskBytes is what an open image takes on the disk, blocks that it shares with others included.
func diskBytes(image *os.File) int64 {
	var stat unix.Stat_t
	if err := unix.Fstat(int(image.Fd()), &stat); err != nil {
		return 0
	}
	return stat.Blocks * 512
}

// snapshotPromises are the promises to all snapshots, by id.
func (p *Pool) snapshotPromises() map[string]promise {
	p.mu.RLock()
	defer p.mu.RUnlock()
	all := map[string]promise{}
	for id, e := range p.snapshots {
		all[id] = e.promised
	}
	return all
}

// sharing sums up blocks that are in more than one image without counting any twice: first those that each image has for
// itself, and, once, the most that any image shares. That is less than there is when several shared images have
// nothing in common, never more.
type sharing struct {
	off       bool // no two images can share blocks
	mostBytes int64
}

// newSharing looks whether anything in the pool can share blocks.
func (p *Pool) newSharing() *sharing {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if !p.reflinks {
		return &sharing{off: true}
	}
	off := len(p.snapshots) == 0 && len(p.making) == 0
	for _, e := range p.volumes.by {
		off = off && e.volume.Source == ""
	}
	return &sharing{off: off}
}

// without is what the image in a folder takes for itself; nothing when it cannot be found out.
func (s *sharing) without(p *Pool, folder string) int64 {
	image, err := p.openImage(folder)
	if err != nil {
		return 0
	}
	defer image.Close()
	allocated := diskBytes(image)
	if s.off {
		return allocated
	}
	shared, err := sharedBytes(image)
	if err != nil {
		return 0
	}
	shared = min(shared, allocated)
	s.mostBytes = max(s.mostBytes, shared)
	return allocated - shared
}
