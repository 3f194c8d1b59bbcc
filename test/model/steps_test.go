package model

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// How much there is of everything: little, so that steps meet.
const (
	volumeNames   = 5
	snapshotNames = 3
	groupNames    = 2 // of group snapshots
	inlineNames   = 2 // of inline volumes, which have the numbers after those of the others
	allVolumes    = volumeNames + inlineNames
	// Members of groups have the numbers after those of other snapshots, by group and volume.
	allSnapshots = snapshotNames + groupNames*volumeNames
	targets      = 4
	stagingPaths = 2 // of each volume
	sandboxes    = 3 // numbered from 1

	mib         = int64(1) << 20
	smallest    = 16 * mib // volume
	poolReserve = 12 * mib // for what the pool's file system keeps for itself
	markEvery   = 4096     // bytes between two places for marks
)

// kind is what a step does.
type kind int

const (
	create kind = iota
	remove
	stage
	unstage
	publish
	unpublish
	grow
	askGrow
	stats
	describe
	validate
	health
	list
	capacity
	clone
	snap
	dropSnap
	restore
	listSnaps
	attach
	detach
	modify
	snapGroup
	dropGroup
	getGroup
	inline
	claim
	release
	die
	write
)

var kindNames = [...]string{
	"CreateVolume", "DeleteVolume", "NodeStageVolume", "NodeUnstageVolume", "NodePublishVolume", "NodeUnpublishVolume",
	"NodeExpandVolume", "ControllerExpandVolume", "NodeGetVolumeStats", "ControllerGetVolume", "ValidateVolumeCapabilities",
	"NodeGetVolumeHealth", "ListVolumes", "GetCapacity", "CreateVolume from a volume", "CreateSnapshot", "DeleteSnapshot",
	"CreateVolume from a snapshot", "ListSnapshots", "ControllerPublishVolume", "ControllerUnpublishVolume",
	"ControllerModifyVolume", "CreateVolumeGroupSnapshot", "DeleteVolumeGroupSnapshot", "GetVolumeGroupSnapshot",
	"NodePublishVolume of an inline volume", "claim", "release", "die", "write",
}

func (k kind) String() string { return kindNames[k] }

// weights are how often each kind is drawn.
var weights = map[kind]int{
	create: 12, remove: 7, stage: 12, unstage: 7, publish: 14, unpublish: 9, grow: 6, askGrow: 2, stats: 3, describe: 2,
	validate: 1, health: 2, list: 3, capacity: 2, clone: 4, snap: 9, dropSnap: 4, restore: 6, listSnaps: 2, attach: 3, detach: 4, modify: 2,
	snapGroup: 5, dropGroup: 3, getGroup: 2, inline: 6, claim: 10, release: 4, die: 3, write: 10,
}

// step is one thing that is done. Fields that its kind does not need mean nothing.
type step struct {
	kind      kind
	volume    int
	other     int // volume to clone
	snapshot  int
	group     int
	members   [volumeNames]bool // that the group is to have
	raw       bool              // asks for, or treats the volume as, a raw block volume
	sizeBytes int64
	readOnly  bool
	staging   int
	target    int
	sandbox   int
	place     int64
	mark      uint64
}

func (s step) String() string {
	if s.kind == modify {
		name, value := s.limit()
		return fmt.Sprintf("%v{volume:%d %s:%d}", s.kind, s.volume, name, value)
	}
	return fmt.Sprintf("%v{volume:%d other:%d snapshot:%d group:%d of %v raw:%t size:%dM ro:%t staging:%d target:%d sandbox:%d}",
		s.kind, s.volume, s.other, s.snapshot, s.group, s.sources(), s.raw, s.sizeBytes/mib, s.readOnly, s.staging, s.target, s.sandbox)
}

// sources are the volumes that a group is to be of.
func (s step) sources() []int {
	var all []int
	for i, is := range s.members {
		if is {
			all = append(all, i)
		}
	}
	return all
}

// locks are what the step holds while it runs: another one that needs one of them meanwhile is ABORTED.
func (s step) locks() []string {
	v, t := fmt.Sprintf("volume %d", s.volume), fmt.Sprintf("target %d", s.target)
	from := fmt.Sprintf("snapshot %d", s.snapshot)
	switch s.kind {
	case create, remove, stage, unstage, grow, askGrow, attach, detach, modify:
		return []string{v}
	case clone:
		return []string{v, fmt.Sprintf("volume %d", s.other)}
	case snap, restore:
		return []string{v, from}
	case dropSnap:
		return []string{from}
	case snapGroup:
		all := []string{fmt.Sprintf("group %d", s.group)}
		for _, i := range s.sources() {
			all = append(all, fmt.Sprintf("volume %d", i))
		}
		return all
	case dropGroup:
		all := []string{fmt.Sprintf("group %d", s.group)}
		for i := range volumeNames {
			all = append(all, fmt.Sprintf("snapshot %d", memberOf(s.group, i)))
		}
		return all
	case publish, unpublish, inline:
		return []string{v, t}
	}
	return nil
}

// isCall reports whether the step is a call of the driver, and not something that a sandbox does.
func (s step) isCall() bool { return s.kind < claim }

// round is some steps at once, or the end of the driver.
type round struct {
	steps []step
	// restart ends the driver well after the round, kill ends it with SIGKILL in the middle of it.
	restart, kill bool
	// killAfter is how many answers the driver still gives. After none it is killed in so short a time.
	killAfter int
	killDelay time.Duration
	// audit says that the disk is looked at after the round in any case.
	audit bool
}

func (r round) String() string {
	end := ""
	if r.restart {
		end = " then restart"
	}
	if r.kill {
		end = fmt.Sprintf(" killed after %d answers", r.killAfter)
	}
	return fmt.Sprintf("%v%s", r.steps, end)
}

// rounds are what a seed says, in a long sequence or a short one.
func rounds(seed uint64, long bool) []round {
	random := rand.New(rand.NewPCG(seed, 0))
	var all []round
	// A kind of volume for each name, mostly: half of all steps would be refused otherwise.
	raw := [volumeNames]bool{}
	for i := range raw {
		raw[i] = random.IntN(6) == 0
	}
	count := 2 + random.IntN(8)
	if long {
		count *= 4
	}
	for range count {
		switch n := random.IntN(100); {
		case n < 25:
			all = append(all, life(random, raw)...)
		case n < 65:
			all = append(all, round{steps: []step{draw(random, raw)}})
		default:
			r := round{}
			for range 2 + random.IntN(4) {
				r.steps = append(r.steps, draw(random, raw))
			}
			r.steps = together(r.steps)
			switch random.IntN(16) {
			case 0:
				r.restart = true
			case 1, 2:
				r.kill, r.killAfter, r.killDelay = true, random.IntN(len(r.steps)), time.Duration(random.IntN(3000))*time.Microsecond
			}
			all = append(all, r)
		}
		all[len(all)-1].audit = random.IntN(6) == 0
	}
	return all
}

// life is the beginning of a volume's life as kubelet leads it, so that later stages of it come about often enough.
func life(random *rand.Rand, raw [volumeNames]bool) []round {
	first := draw(random, raw)
	if isInline(first.volume) {
		first.volume = random.IntN(volumeNames)
	}
	first.snapshot %= snapshotNames
	first.kind, first.readOnly, first.staging, first.raw = create, false, 0, raw[first.volume]
	var all []round
	for _, k := range []kind{create, stage, publish, claim, write, snap} {
		s := first
		s.kind = k
		all = append(all, round{steps: []step{s}})
	}
	return all[:1+random.IntN(len(all))]
}

func draw(random *rand.Rand, raw [volumeNames]bool) step {
	s := step{
		volume:    random.IntN(volumeNames),
		other:     random.IntN(volumeNames),
		snapshot:  random.IntN(snapshotNames),
		group:     random.IntN(groupNames),
		sizeBytes: []int64{16, 24, 40, 64, 96}[random.IntN(5)] * mib,
		readOnly:  random.IntN(6) == 0,
		target:    random.IntN(targets),
		sandbox:   1 + random.IntN(sandboxes),
		place:     random.Int64N(1 << 40),
		mark:      random.Uint64(),
	}
	if random.IntN(8) == 0 {
		s.staging = 1
	}
	for range 1 + random.IntN(3) {
		s.members[random.IntN(volumeNames)] = true
	}
	s.raw = raw[s.volume] != (random.IntN(16) == 0)
	sum := 0
	for _, w := range weights {
		sum += w
	}
	n := random.IntN(sum)
	for k := create; int(k) < len(kindNames); k++ {
		if n -= weights[k]; n < 0 {
			s.kind = k
			break
		}
	}
	switch {
	case s.kind == inline, (s.kind == unpublish || s.kind == stats || s.kind == write) && random.IntN(4) == 0:
		s.volume, s.raw, s.readOnly = volumeNames+random.IntN(inlineNames), false, false
	case (s.kind == restore || s.kind == dropSnap) && random.IntN(3) == 0:
		s.snapshot = memberOf(s.group, s.other)
	}
	return s
}

// memberOf is the number of the snapshot of a volume in a group.
func memberOf(group, volume int) int { return snapshotNames + group*volumeNames + volume }

// together leaves out of steps at once what the model cannot follow: a mark must know its volume, and a guest that dies
// while its volume grows may or may not have answered.
func together(steps []step) []step {
	var kept []step
	for _, s := range steps {
		if s.kind != write && s.kind != die {
			kept = append(kept, s)
		}
	}
	if len(kept) == 0 {
		return []step{{kind: list}}
	}
	return kept
}
