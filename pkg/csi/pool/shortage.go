package pool

import (
	"context"
	"fmt"
	"time"
)

// Space is how a pool's books stand, in bytes.
type Space struct {
	TotalBytes    int64   // of the pool's file system
	FreeBytes     int64   // of them, for an ordinary user
	TakenBytes    int64   // what volumes and snapshots have on the disk, at least
	PromisedBytes int64   // the sizes of all volumes
	BookedBytes   int64   // what the disk needs for all promises, within the over-commitment
	Overcommit    float64 // what the operator allows
	// Shortage is a sentence that says what is wrong and what to do; "" while everything promised can be kept.
	Shortage string
}

// Space looks at the disk and at every volume.
func (p *Pool) Space(ctx context.Context) (Space, error) {
	disk, err := p.space.disk()
	if err != nil {
		return Space{}, err
	}
	s := Space{
		TotalBytes: disk.totalBytes, FreeBytes: disk.leftBytes, TakenBytes: p.takenBytes(),
		BookedBytes: p.space.booked(), Overcommit: p.space.overcommit,
	}
	for _, v := range p.List(ctx) {
		s.PromisedBytes += v.SizeBytes
	}
	const then = "a volume that finds no room stands still with its pod until there is some: " +
		"free or add space, or delete volumes that nobody needs"
	switch missing := s.BookedBytes - s.TakenBytes - s.FreeBytes; {
	case p.space.nearlyFull(disk):
		s.Shortage = fmt.Sprintf("the over-committed pool's disk is nearly full: %d of %d bytes are left; %s",
			s.FreeBytes, s.TotalBytes, then)
	case missing > 0:
		s.Shortage = fmt.Sprintf("the pool's disk lacks %d bytes for what is promised to volumes, "+
			"because others write to it or the over-commitment was lowered; %s", missing, then)
	}
	return s, nil
}

// shortageInterval is how often the pool looks: guests fill it without any call.
const shortageInterval = time.Minute

// watchShortage logs when a shortage begins and when it has ended, until ctx ends.
func (p *Pool) watchShortage(ctx context.Context, interval time.Duration) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	short := false
	for {
		// Not at once: it looks at every volume, and there are calls that wait for the driver to be ready.
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		// What cannot be asked for now is asked for again; calls that need the answer report the error.
		if s, err := p.Space(ctx); err == nil && (s.Shortage != "") != short {
			if short = !short; short {
				p.log.WarnContext(ctx, s.Shortage, "pool", p.dir)
			} else {
				p.log.InfoContext(ctx, "the pool's disk has room again for what is promised", "pool", p.dir)
			}
		}
	}
}
