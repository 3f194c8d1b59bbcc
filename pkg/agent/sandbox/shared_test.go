package sandbox

import (
	"slices"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

const share = "/run/kata-containers/shared/containers"

func TestWhatAContainerIsMadeFromIsItsPartOfTheShare(t *testing.T) {
	spec := &specs.Spec{
		Root: &specs.Root{Path: share + "/c1/rootfs"},
		Mounts: []specs.Mount{
			{Source: share + "/c1-0123-hosts"}, {Source: share + "/c1-0123-hosts"}, {Source: share + "/passthrough/../c1-4567-data/"},
			{Source: "proc"}, {Source: "/run/kata-containers/sandbox/shm"}, {Source: share}, {Source: share + "-of-others/c1"},
			{Source: share + "/../../other"},
		},
	}
	storages := []*agentproto.Storage{{Source: share + "/c1-89ab-config", MountPoint: share + "/watchable/c1-89ab-config"}, {Source: "vdb"}}
	want := []string{share + "/c1/rootfs", share + "/c1-0123-hosts", share + "/c1-4567-data", share + "/c1-89ab-config"}
	if got := sharedPaths(spec, storages); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := sharedPaths(&specs.Spec{}, nil); len(got) > 0 {
		t.Errorf("of nothing: %q", got)
	}
}

func TestOnlyWhatNoOtherContainerIsMadeFromIsUnmounted(t *testing.T) {
	for name, c := range map[string]struct{ mounts, gone, inUse, storages, want []string }{
		"its root file system":               {mounts: []string{"/s", "/s/c1/rootfs", "/s/c2/rootfs"}, gone: []string{"/s/c1/rootfs"}, inUse: []string{"/s/c2/rootfs"}, want: []string{"/s/c1/rootfs"}},
		"a name that begins alike":           {mounts: []string{"/s/c1-data", "/s/c1-data2"}, gone: []string{"/s/c1-data"}, want: []string{"/s/c1-data"}},
		"what is below goes first":           {mounts: []string{"/s/c1-a", "/s/c1-a/b", "/s/c1-a/b/c"}, gone: []string{"/s/c1-a"}, want: []string{"/s/c1-a/b/c", "/s/c1-a/b", "/s/c1-a"}},
		"a folder that another has too":      {mounts: []string{"/s/c1-a", "/s/c1-b"}, gone: []string{"/s/c1-a", "/s/c1-b"}, inUse: []string{"/s/c1-a"}, want: []string{"/s/c1-b"}},
		"a folder of which another has part": {mounts: []string{"/s/c1-a"}, gone: []string{"/s/c1-a"}, inUse: []string{"/s/c1-a/part"}},
		"what is below another's":            {mounts: []string{"/s/c1-a/b"}, gone: []string{"/s/c1-a/b"}, inUse: []string{"/s/c1-a"}},
		"a part, where all of it is mounted": {mounts: []string{"/s/c1-a"}, gone: []string{"/s/c1-a/part"}},
		"what has never been mounted":        {mounts: []string{"/s"}, gone: []string{"/s/c1/rootfs"}},
		"a storage on the share":             {mounts: []string{"/s", "/s/c1-a"}, gone: []string{"/s/c1-a"}, storages: []string{"/s", "/s/c1-a"}},
		"a storage inside":                   {mounts: []string{"/s", "/s/c1-a"}, gone: []string{"/s/c1-a"}, storages: []string{"/s", "/s/c1-a/b"}},
		"with a volume inside":               {mounts: []string{"/s/c1/rootfs", "disk:/s/c1/rootfs/data"}, gone: []string{"/s/c1/rootfs"}},
	} {
		t.Run(name, func(t *testing.T) {
			var mounts []*mountinfo.Info
			for _, point := range c.mounts {
				path, isDisk := strings.CutPrefix(point, "disk:")
				info := &mountinfo.Info{Mountpoint: path, FSType: shareType}
				if isDisk {
					info.FSType = "ext4"
				}
				mounts = append(mounts, info)
			}
			var got []string
			for _, m := range unneeded(mounts, c.gone, c.inUse, c.storages) {
				got = append(got, m.Mountpoint)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}
