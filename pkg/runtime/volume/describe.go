package volume

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// guestPatience bounds how long all of a description waits for the guest.
const guestPatience = 10 * time.Second

// maxListed bounds what the guest may tell in one list: no machine has as many disks.
const maxListed = 512

// Describe tells of every volume what the records, the machine and the guest know. A guest that does not answer leaves
// a Problem where its figures would be.
func (s *Set) Describe(ctx context.Context) []directvolume.SandboxVolume {
	ctx, cancel := context.WithTimeout(ctx, guestPatience)
	defer cancel()
	inGuest, problem := s.mountedInGuest(ctx)
	all := []directvolume.SandboxVolume{} // "[]", not "null"
	for _, d := range s.snapshot() {
		v := directvolume.SandboxVolume{
			Device: d.device, GuestPath: d.guestPath, ReadOnly: d.readOnly, Containers: d.users, VolumePaths: d.paths,
			Problem: problem,
		}
		s.describeRecord(ctx, &v)
		if m := inGuest[d.guestPath]; m != nil {
			describeMount(&v, m)
		}
		if len(d.users) > 0 && problem == "" {
			if stats, err := s.Stats(ctx, d.device); err != nil {
				v.Problem = err.Error()
			} else {
				v.Usage, v.Condition = stats.Usage, &stats.Condition
			}
		}
		all = append(all, v)
	}
	return all
}

// mountedInGuest asks the guest what is mounted; the agent of somebody else does not tell.
func (s *Set) mountedInGuest(ctx context.Context) (map[string]*agentproto.MountedVolume, string) {
	if !s.Features.Freeze {
		return nil, ""
	}
	r, err := s.Agent.List(ctx, &agentproto.ListRequest{})
	if err != nil {
		return nil, err.Error()
	}
	byPath := make(map[string]*agentproto.MountedVolume)
	for _, m := range r.GetVolumes()[:min(len(r.GetVolumes()), maxListed)] {
		byPath[m.GetVolumeGuestPath()] = m
	}
	return byPath, ""
}

// seen is a disk as it was at one moment.
type seen struct {
	device, guestPath string
	readOnly          bool
	paths, users      []string
}

// snapshot is sorted by device.
func (s *Set) snapshot() []seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []seen
	for _, d := range s.disks {
		if d.kind == rootfs {
			continue
		}
		v := seen{device: d.device, guestPath: d.guestPath, readOnly: d.readOnly, users: []string{}}
		v.paths = slices.Sorted(maps.Keys(d.paths))
		v.users = slices.AppendSeq(v.users, maps.Keys(d.users))
		slices.Sort(v.users)
		all = append(all, v)
	}
	slices.SortFunc(all, func(a, b seen) int { return strings.Compare(a.device, b.device) })
	return all
}

// describeRecord adds what the records say. The one for another path of the same volume says the same.
func (s *Set) describeRecord(ctx context.Context, v *directvolume.SandboxVolume) {
	for _, path := range v.VolumePaths {
		record, err := s.Records.Get(ctx, path)
		if err != nil {
			continue // unpublished; the disk goes with its last container
		}
		v.FSType, v.VolumeID = record.FSType, record.Metadata[directvolume.MetadataVolumeID]
		return
	}
}

// describeMount adds what the guest says.
func describeMount(v *directvolume.SandboxVolume, m *agentproto.MountedVolume) {
	const maxName = 64
	v.GuestDevice, v.SizeBytes = readable(m.GetDevice(), maxName), m.GetDeviceBytes()
	if fsType := readable(m.GetFstype(), maxName); fsType != "" {
		v.FSType = fsType
	}
	if ms := m.GetFrozenMilliseconds(); ms > 0 {
		most := uint64(directvolume.MaxFreeze.Milliseconds())
		since := time.Duration(min(ms, most)) * time.Millisecond
		v.Frozen = &directvolume.Frozen{
			Since: time.Now().Add(-since).Truncate(time.Millisecond), RemainingMilliseconds: min(m.GetRemainingMilliseconds(), most),
		}
	}
}

// readable cuts text of the guest to limit bytes and drops what could disturb a terminal.
func readable(text string, limit int) string {
	text = strings.ToValidUTF8(text[:min(len(text), limit)], "")
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, text)
}
