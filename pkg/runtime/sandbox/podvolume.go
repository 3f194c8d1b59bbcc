package sandbox

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/sandbox/guestspec"
	"github.com/katadirect/katadirect/pkg/runtime/volume"
)

// memoryVolume is the guest's stand-in for an emptyDir that kubelet has made of memory or of huge pages, or for a part of
// one: the host's memory would have to be reached over the share, and would not count as the container's. There are no
// storages for any other mount.
func (s *Sandbox) memoryVolume(id string, m specs.Mount, hugepages []specs.LinuxHugepageLimit) (
	guestPath string, storages []*agentproto.Storage, err error,
) {
	dir, inside, err := volume.Below(m.Source, emptyDirs)
	if err != nil || dir == "" {
		return "", nil, err
	}
	whole, err := s.memoryDir(dir, hugepages)
	if err == nil && whole == nil && s.copies() {
		whole, err = localDir(dir)
	}
	if err != nil || whole == nil {
		return "", nil, err
	}
	if inside == "" {
		return whole.MountPoint, []*agentproto.Storage{whole}, nil
	}
	part := volume.PartOf(id, whole.MountPoint, inside)
	if !s.features.SubPath {
		// Kata's agent can at least make a folder there.
		part = &agentproto.Storage{Driver: "local", Source: "local", Fstype: "local", MountPoint: filepath.Join(whole.MountPoint, inside)}
	}
	return part.MountPoint, []*agentproto.Storage{whole, part}, nil
}

func (s *Sandbox) memoryDir(dir string, hugepages []specs.LinuxHugepageLimit) (*agentproto.Storage, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return nil, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	switch stat.Type {
	case unix.TMPFS_MAGIC:
		return memoryDir(dir, int64(stat.Blocks)*stat.Bsize, s.memoryBytes())
	case unix.HUGETLBFS_MAGIC:
		return hugepageDir(dir, stat.Bsize, hugepages)
	}
	return nil, nil
}

// memoryDir is a tmpfs with the size, mode and group of the host's. A size that the machine's memory could not hold is
// what kubelet writes for want of a limit; the kernel's own default takes its place.
func memoryDir(source string, sizeBytes, machineBytes int64) (*agentproto.Storage, error) {
	options, err := ownership(source)
	if err != nil {
		return nil, err
	}
	if sizeBytes > 0 && sizeBytes <= machineBytes {
		options = append(options, fmt.Sprintf("size=%d", sizeBytes))
	}
	return &agentproto.Storage{
		Driver: "ephemeral", Source: "tmpfs", Fstype: "tmpfs", MountPoint: guestspec.EphemeralPath(source), Options: options,
	}, nil
}

// localDir is a folder in the guest's own memory, with the mode and group of the host's: without a file share there is
// no other that the containers of a pod could have in common.
func localDir(source string) (*agentproto.Storage, error) {
	options, err := ownership(source)
	if err != nil {
		return nil, err
	}
	return &agentproto.Storage{
		Driver: "local", Source: "local", Fstype: "local", MountPoint: guestspec.LocalPath(source), Options: options,
	}, nil
}

// hugepageDir is a hugetlbfs that holds as much as the container may use of pages of that size.
func hugepageDir(source string, pageBytes int64, limits []specs.LinuxHugepageLimit) (*agentproto.Storage, error) {
	for _, l := range limits {
		size, err := guestspec.PageBytes(l.Pagesize)
		if err != nil {
			return nil, err
		}
		if size != pageBytes || l.Limit == 0 {
			continue
		}
		options, err := ownership(source)
		if err != nil {
			return nil, err
		}
		return &agentproto.Storage{
			Driver: "ephemeral", Source: "nodev", Fstype: "hugetlbfs", MountPoint: guestspec.EphemeralPath(source),
			Options: append(options, fmt.Sprintf("pagesize=%d", pageBytes), fmt.Sprintf("size=%d", l.Limit)),
		}, nil
	}
	return nil, fmt.Errorf("%s holds huge pages of %d bytes, and the container has no limit for those: %w",
		source, pageBytes, guestspec.ErrUnsupported)
}

// ownership is the folder's mode and group in the words of the agent's options. kubelet sets both for fsGroup.
func ownership(source string) ([]string, error) {
	info, err := os.Stat(source)
	if err != nil {
		return nil, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, fmt.Errorf("%s: no owner", source)
	}
	options := []string{fmt.Sprintf("mode=%04o", stat.Mode&0o7777)}
	if stat.Gid != 0 {
		options = append(options, fmt.Sprintf("fsgid=%d", stat.Gid))
	}
	return options, nil
}

// watched has the agent keep a copy of a folder whose content kubelet exchanges, so that programs hear of it. shared is
// where the guest finds the folder itself. nil for any other mount.
func watched(m specs.Mount, shared string) *agentproto.Storage {
	if !guestspec.IsWatched(m.Source) {
		return nil
	}
	return &agentproto.Storage{
		Driver: "watchable-bind", Source: shared, Fstype: "bind", MountPoint: guestspec.WatchablePath(shared),
		Options: []string{"bind"},
	}
}

func hugepageLimits(spec *specs.Spec) []specs.LinuxHugepageLimit {
	if r := resources(spec); r != nil {
		return r.HugepageLimits
	}
	return nil
}
