package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/csi/health"
)

// When the pool's file system is worth a word: less than one part in lowPart and less than lowBytes is left.
const (
	lowPart   = 20
	lowBytes  = 10 * gib
	fewInodes = 1000
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
	switch space, err := p.Space(ctx); {
	case err != nil:
		add(health.PoolUnreachable, "%v", err)
	case space.Shortage != "":
		add(health.PoolShort, "pool %s: %s", p.dir, space.Shortage)
	case space.FreeBytes < space.TotalBytes/lowPart && space.FreeBytes < lowBytes:
		add(health.PoolNearlyFull, "the file system of the pool %s has %d of %d MiB left", p.dir, space.FreeBytes/mib, space.TotalBytes/mib)
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

func (p *Pool) damaged() []string {
	p.mu.RLock()
	defer p.mu.RUnlock()
	var ids []string
	for id, e := range p.volumes.by {
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
		if p.beingDeleted(id) {
			return nil, fmt.Errorf("%w: %s", ErrNotFound, id)
		}
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

// beingDeleted reports whether a volume whose image is not there is one that Delete has come to: its folder has another
// name then, and the index forgets it before that has gone too.
func (p *Pool) beingDeleted(id string) bool {
	var stat unix.Stat_t
	if unix.Fstatat(int(p.root.Fd()), deletedPrefix+id, &stat, unix.AT_SYMLINK_NOFOLLOW) == nil {
		return true
	}
	_, found := p.entry(id)
	return !found
}
