package pool

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/csi/health"
)

// When the pool's file system counts as nearly full: less than this part of it is left, and less than nearlyFullBytes.
const (
	nearlyFullPart  = 20
	nearlyFullBytes = 10 * gib
	fewInodes       = 1000
)

// maxNamed bounds how many damaged volumes are named in one sentence.
const maxNamed = 5

// Health looks at the pool as a whole. None of it is about one volume only, except that damaged ones are named.
func (p *Pool) Health(ctx context.Context) []health.Problem {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(p.root.Fd()), &fs); err != nil {
		return []health.Problem{{Severity: health.Inaccessible, Reason: health.PoolUnreachable,
			Message: fmt.Sprintf("the file system of the pool %s does not answer: %v", p.dir, err)}}
	}
	var found []health.Problem
	add := func(reason, format string, args ...any) {
		found = append(found, health.Problem{Severity: health.Degraded, Reason: reason, Message: fmt.Sprintf(format, args...)})
	}
	if isReadOnly(p.root, fs) {
		add(health.PoolReadOnly, "the file system of the pool %s is read-only; machines get errors for what they write", p.dir)
	}
	left, total := bytesOf(fs.Bavail, fs), bytesOf(fs.Blocks, fs)
	if left < total/nearlyFullPart && left < nearlyFullBytes {
		add(health.PoolNearlyFull, "the file system of the pool %s has %d of %d MiB left", p.dir, left/mib, total/mib)
	}
	if short := p.space.promised() - p.allocatedBytes() - left; short > 0 && !p.overcommits() {
		add(health.PoolShort, "the pool %s has promised its volumes %d MiB more than its file system has left: something else "+
			"has filled it; a machine that finds no room stands still until there is some", p.dir, short/mib+1)
	}
	if fs.Files > 0 && fs.Ffree < fewInodes {
		add(health.PoolFewInodes, "the file system of the pool %s has %d inodes left; each volume takes a few", p.dir, fs.Ffree)
	}
	if damaged := p.damaged(); len(damaged) > 0 {
		named := strings.Join(damaged[:min(len(damaged), maxNamed)], ", ")
		if len(damaged) > maxNamed {
			named += ", …"
		}
		add(health.DamagedVolumes, "%d volumes of the pool %s are damaged: %s", len(damaged), p.dir, named)
	}
	return found
}

// overcommits says whether the operator lets the pool promise more than it has.
func (p *Pool) overcommits() bool { return false }

func bytesOf(blocks uint64, fs unix.Statfs_t) int64 {
	size := uint64(max(1, fs.Frsize))
	return int64(min(blocks, math.MaxInt64/size) * size)
}

func (p *Pool) damaged() []string {
	p.mu.RLock()
	defer p.mu.RUnlock()
	var ids []string
	for id, e := range p.volumes {
		if e.damage != nil {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// VolumeHealth looks at the volume's folder as it is now. It returns ErrInvalidID or ErrNotFound for what is no volume.
func (p *Pool) VolumeHealth(ctx context.Context, id string) ([]health.Problem, error) {
	v, err := p.Get(ctx, id)
	damage := err
	if err != nil && !errors.Is(err, ErrDamaged) {
		return nil, err
	}
	sizeBytes, err := p.imageBytes(id)
	switch {
	case errors.Is(err, unix.ENOENT):
		return problem(health.DataLoss, health.ImageMissing, "the volume's image %s is gone", p.volume(id, meta{}, 0).ImagePath), nil
	case err != nil:
		return problem(health.Inaccessible, health.VolumeDamaged, "the volume's image cannot be looked at: %v", err), nil
	case damage != nil:
		return problem(health.Inaccessible, health.VolumeDamaged, "%v; nothing of it is deleted", damage), nil
	case sizeBytes < v.SizeBytes:
		return problem(health.DataLoss, health.ImageShort,
			"the volume's image %s has %d bytes, and had %d: its end is cut off", v.ImagePath, sizeBytes, v.SizeBytes), nil
	}
	return nil, nil
}

func problem(severity health.Severity, reason, format string, args ...any) []health.Problem {
	return []health.Problem{{Severity: severity, Reason: reason, Message: fmt.Sprintf(format, args...)}}
}

// imageBytes is how long the image is.
func (p *Pool) imageBytes(id string) (int64, error) {
	f, err := openFolder(p.root, id)
	if err != nil {
		return 0, err
	}
	defer f.close()
	size, err := f.imageSize()
	return size.lengthBytes, err
}
