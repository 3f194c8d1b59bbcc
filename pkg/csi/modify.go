package csi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/katadirect/katadirect/pkg/csi/health"
	"github.com/katadirect/katadirect/pkg/csi/mode"
	"github.com/katadirect/katadirect/pkg/csi/pool"
	"github.com/katadirect/katadirect/pkg/csi/stage"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// limitedController is a controller whose volumes can have limits, from their beginning and later.
type limitedController struct {
	limiter limiter
	csi.ControllerServer
}

// CreateVolume gives the volume the limits of its VolumeAttributesClass. A repeated call does so again, whatever an
// earlier one came to.
func (c limitedController) CreateVolume(ctx context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	change, err := parseChange(r.GetMutableParameters())
	if err == nil {
		_, err = change.of(directvolume.Limits{}) // before there is a volume
	}
	if err != nil {
		return nil, err
	}
	if r.GetParameters()[mode.Key] == string(mode.Host) && !change.none() {
		return nil, failf(ErrInvalidArgument, "a VolumeAttributesClass with I/O limits, and %s: %s: the host mounts the volume, and "+
			"limits hold in virtual machines only", mode.Key, mode.Host)
	}
	made, err := c.ControllerServer.CreateVolume(ctx, r)
	if err != nil || change.none() {
		return made, err
	}
	if err := c.limiter.modify(ctx, made.GetVolume().GetVolumeId(), change, nil); err != nil {
		return nil, err
	}
	return made, nil
}

// ControllerModifyVolume changes the volume's limits: on the disk, in the records, and in the machine that has it, before
// it returns. One external-resizer asks for the volumes of all nodes. For one of another node it is answered from the
// request alone, and only if that node will see the change on the PersistentVolume.
func (c limitedController) ControllerModifyVolume(ctx context.Context, r *csi.ControllerModifyVolumeRequest) (*csi.ControllerModifyVolumeResponse, error) {
	id := r.GetVolumeId()
	if err := pool.ValidateID(id); err != nil {
		return nil, err
	}
	change, err := parseChange(r.GetMutableParameters())
	if err != nil {
		return nil, err
	}
	err = c.limiter.modify(ctx, id, change, nil)
	if errors.Is(err, pool.ErrNotFound) && c.limiter.isForeign(id) {
		err = c.limiter.leaveToItsNode(id)
	}
	if err != nil {
		return nil, err
	}
	return &csi.ControllerModifyVolumeResponse{}, nil
}

// limiter gives volumes their limits.
type limiter struct {
	pool    *pool.Pool
	staged  *stage.Store
	records records
	guests  guests
	log     *slog.Logger
	// watched says that the drivers of all nodes watch PersistentVolumes, and apply what they say.
	watched bool
}

// isForeign reports whether the volume is one of another node.
func (l limiter) isForeign(id string) bool { return pool.IsPoolID(id) && !l.pool.Local(id) }

// leaveToItsNode refuses unless the nodes' drivers see what becomes of PersistentVolumes.
func (l limiter) leaveToItsNode(id string) error {
	if l.watched {
		return nil
	}
	return failf(ErrState, "volume %s is of another node, whose driver would not hear of the change: "+
		"the drivers have no access to Kubernetes. Give it to them, or call the driver of that node", id)
}

// modify changes a volume's limits, durably and in this order: on the disk, in the records, in the machine. Each step
// finds out by itself what is left to do, so a call that failed half way is simply repeated. class, if given, is the
// VolumeAttributesClass that the change comes from. The caller holds the volume's lock.
func (l limiter) modify(ctx context.Context, id string, change change, class *string) error {
	v, err := l.pool.Get(ctx, id)
	if err != nil {
		return err
	}
	has, err := l.pool.Limits(ctx, id)
	if errors.Is(err, pool.ErrDamaged) {
		l.log.ErrorContext(ctx, "the volume's limits cannot be read and are made anew", "volume", id, "error", err)
		has = pool.Limits{}
	} else if err != nil {
		return err
	}
	wanted := has
	if wanted.Limits, err = change.of(has.Limits); err != nil {
		return err
	}
	if err := l.canHold(ctx, v, wanted.Limits); err != nil {
		return err
	}
	if wanted != has {
		err = l.pool.SetLimits(ctx, id, wanted)
	} else {
		err = l.pool.SettleLimits(ctx, id)
	}
	if err != nil {
		return err
	}
	if !change.none() {
		if err := l.tell(ctx, v, wanted.Limits); err != nil {
			return err
		}
	}
	if class == nil || *class == wanted.Class {
		return nil
	}
	wanted.Class = *class // last: it says that all of the above is done
	return l.pool.SetLimits(ctx, id, wanted)
}

// canHold refuses limits where nothing would hold them: outside of a machine.
func (l limiter) canHold(ctx context.Context, v pool.Volume, limits directvolume.Limits) error {
	if limits.None() {
		return nil
	}
	if class, err := classMode(v); err == nil && class == mode.Host {
		return failf(ErrInvalidArgument, "volume %s is of a class with %s: %s: the host mounts it, and I/O limits hold in "+
			"virtual machines only", v.ID, mode.Key, mode.Host)
	}
	if l.isOnHost(ctx, v.ID) {
		return failf(ErrState, "volume %s is mounted on the host for an ordinary pod, and I/O limits hold in virtual machines "+
			"only; modify it when that pod has ended", v.ID)
	}
	return nil
}

// isOnHost reports whether the host has mounted the volume.
func (l limiter) isOnHost(ctx context.Context, id string) bool {
	present, err := l.staged.Get(ctx, id)
	return err == nil && present.OnHost
}

// unheld says that a volume has limits and is where none hold: a volume with the mode auto may have had them before.
func (l limiter) unheld(ctx context.Context, id string) []health.Problem {
	has, err := l.pool.Limits(ctx, id)
	if err != nil || has.None() || !l.isOnHost(ctx, id) {
		return nil
	}
	return []health.Problem{{Severity: health.Degraded, Reason: health.LimitsNotApplied, Message: fmt.Sprintf(
		"the volume's I/O limits (%s) do not hold while it is mounted on the host for an ordinary pod", has.Limits)}}
}

// tell makes the records say what the limits are, and then every machine that has the volume. Which those are is looked
// up only then: one that claims the volume later finds the limits by itself.
func (l limiter) tell(ctx context.Context, v pool.Volume, limits directvolume.Limits) error {
	publications, err := l.records.of(ctx, v)
	if err != nil {
		return err
	}
	for _, p := range publications {
		if err := l.updateRecord(ctx, p, v, limits); err != nil {
			return err
		}
	}
	if publications, err = l.records.of(ctx, v); err != nil {
		return err
	}
	told := false
	for _, p := range publications {
		for _, sandbox := range p.sandboxes {
			if err := l.guests.throttle(ctx, sandbox, p.record.Device, limits); err != nil {
				return err
			}
			told = true
		}
	}
	if told || limits.None() {
		return nil
	}
	// A record that cannot be read, or a runtime that claims nothing, hides a machine from the list.
	if err := l.pool.CheckUnlocked(v.ID); err != nil {
		return fmt.Errorf("volume %s has the limits %s now, but no readable record says which machine has it, so they hold "+
			"when the pod is started again: %w", v.ID, limits, err)
	}
	return nil
}

func (l limiter) updateRecord(ctx context.Context, p publication, v pool.Volume, limits directvolume.Limits) error {
	text := limits.String()
	if p.record.Metadata[directvolume.MetadataLimits] == text || p.record.Metadata[directvolume.MetadataVolumeID] != v.ID {
		return nil
	}
	setLimits(&p.record, limits)
	return l.records.store.Add(ctx, p.path, p.record)
}

// setLimits writes the limits into a record. None is no key at all: other runtimes need not even ignore it.
func setLimits(r *directvolume.Record, limits directvolume.Limits) {
	if limits.None() {
		delete(r.Metadata, directvolume.MetadataLimits)
		return
	}
	r.Metadata[directvolume.MetadataLimits] = limits.String()
}

// addLimits writes the volume's limits into a record that is about to be published.
func (l limiter) addLimits(ctx context.Context, id string, r *directvolume.Record) error {
	has, err := l.pool.Limits(ctx, id)
	if err != nil {
		return err
	}
	setLimits(r, has.Limits)
	return nil
}
