package pool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

const (
	// limitsName is in the folder of a volume that has, or had, limits. It goes with the volume and into no copy of it.
	limitsName = "limits.json"
	// limitsDraft is what it is called until it is whole. One that a crash has left is overwritten by the next.
	limitsDraft = "limits.json.draft"

	maxLimitsBytes = 4 * kib
)

// Limits are what a volume's guest may do in a second, and where that comes from.
type Limits struct {
	directvolume.Limits
	// Class is the VolumeAttributesClass that was seen last on the volume's PersistentVolume; "" if none ever was.
	Class string `json:"class,omitempty"`
}

// Limits returns a volume's limits, the zero value if it never had any. It returns ErrDamaged when they cannot be read.
func (p *Pool) Limits(ctx context.Context, id string) (Limits, error) {
	if _, err := p.Get(ctx, id); err != nil {
		return Limits{}, err
	}
	f, err := openFolder(p.root, id)
	if err != nil {
		return Limits{}, fmt.Errorf("limits of volume %s: %w", id, err)
	}
	defer f.close()
	l, err := f.readLimits()
	if err != nil {
		return Limits{}, fmt.Errorf("limits of volume %s: %w: %s: %w; modify the volume, or remove that file, to go on",
			id, ErrDamaged, limitsName, err)
	}
	return l, nil
}

func (f *folder) readLimits() (Limits, error) {
	file, err := openBelow(f.dir, limitsName, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENOENT) {
		return Limits{}, nil
	}
	if err != nil {
		return Limits{}, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxLimitsBytes+1))
	if err != nil {
		return Limits{}, err
	}
	return parseLimits(data)
}

// parseLimits reads limits.json.
func parseLimits(data []byte) (Limits, error) {
	if int64(len(data)) > maxLimitsBytes {
		return Limits{}, fmt.Errorf("it is larger than %d KiB", maxLimitsBytes/kib)
	}
	var l Limits
	if err := json.Unmarshal(data, &l); err != nil {
		return Limits{}, err
	}
	return l, l.Validate()
}

// SetLimits keeps limits with the volume, durably: after a crash it has the old ones or the new.
func (p *Pool) SetLimits(ctx context.Context, id string, l Limits) error {
	if _, err := p.Get(ctx, id); err != nil {
		return err
	}
	if err := p.writeLimits(id, l); err != nil {
		return fmt.Errorf("set limits of volume %s: %w", id, diskError(err))
	}
	return nil
}

// SettleLimits makes the limits durable that the volume has: whoever set them may have been killed when they had their
// name, and before that was on the disk.
func (p *Pool) SettleLimits(ctx context.Context, id string) error {
	if _, err := p.Get(ctx, id); err != nil {
		return err
	}
	if err := p.syncVolume(id); err != nil {
		return fmt.Errorf("make the limits of volume %s durable: %w", id, diskError(err))
	}
	return nil
}

func (p *Pool) writeLimits(id string, l Limits) error {
	if err := l.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidSpec, err)
	}
	data, err := json.Marshal(l)
	if err != nil {
		return err
	}
	if int64(len(data)) > maxLimitsBytes {
		return fmt.Errorf("%w: a class with a name of %d bytes", ErrInvalidSpec, len(l.Class))
	}
	f, err := openFolder(p.root, id)
	if err != nil {
		return err
	}
	defer f.close()
	draft, err := openBelow(f.dir, limitsDraft, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, fileMode)
	if err != nil {
		return err
	}
	_, err = draft.Write(data)
	if err == nil {
		err = draft.Sync()
	}
	if err = errors.Join(err, draft.Close()); err != nil {
		return err
	}
	if err := unix.Renameat(int(f.dir.Fd()), limitsDraft, int(f.dir.Fd()), limitsName); err != nil {
		return err
	}
	return f.dir.Sync()
}
