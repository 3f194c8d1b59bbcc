package sandbox

import (
	"slices"
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
	for name, c := range map[string]struct{ mounts, gone, inUse, want []string }{
		"its root file system":               {[]string{"/s", "/s/c1/rootfs", "/s/c2/rootfs"}, []string{"/s/c1/rootfs"}, []string{"/s/c2/rootfs"}, []string{"/s/c1/rootfs"}},
		"a name that begins alike":           {[]string{"/s/c1-data", "/s/c1-data2"}, []string{"/s/c1-data"}, nil, []string{"/s/c1-data"}},
		"what is below goes first":           {[]string{"/s/c1-a", "/s/c1-a/b", "/s/c1-a/b/c"}, []string{"/s/c1-a"}, nil, []string{"/s/c1-a/b/c", "/s/c1-a/b", "/s/c1-a"}},
		"a folder that another has too":      {[]string{"/s/c1-a", "/s/c1-b"}, []string{"/s/c1-a", "/s/c1-b"}, []string{"/s/c1-a"}, []string{"/s/c1-b"}},
		"a folder of which another has part": {[]string{"/s/c1-a"}, []string{"/s/c1-a"}, []string{"/s/c1-a/part"}, nil},
		"what is below another's":            {[]string{"/s/c1-a/b"}, []string{"/s/c1-a/b"}, []string{"/s/c1-a"}, nil},
		"a part, where all of it is mounted": {[]string{"/s/c1-a"}, []string{"/s/c1-a/part"}, nil, nil},
		"what has never been mounted":        {[]string{"/s"}, []string{"/s/c1/rootfs"}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var mounts []*mountinfo.Info
			for _, point := range c.mounts {
				mounts = append(mounts, &mountinfo.Info{Mountpoint: point, FSType: shareType})
			}
			if got := unneeded(mounts, c.gone, c.inUse); !slices.Equal(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}
