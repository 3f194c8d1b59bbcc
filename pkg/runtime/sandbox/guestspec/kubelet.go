package guestspec

import (
	"cmp"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

// Kubelet's volumes that are more than a folder to share, by the part of their path that names the plugin.
const (
	EmptyDir    = "empty-dir"
	ConfigMap   = "configmap"
	Secret      = "secret"
	Projected   = "projected"
	DownwardAPI = "downward-api"
)

// Places in the guest for what stands in for kubelet's volumes, as in Kata.
const (
	ephemeralDir = "/run/kata-containers/sandbox/ephemeral"
	localDir     = "/run/kata-containers/sandbox/local"
	watchableDir = "/run/kata-containers/shared/containers/watchable"
)

// VolumePlugin is the kubelet plugin that made the volume at source, "" if that is not the root of one of kubelet's
// volumes. A part of a volume (subPath) has another path.
func VolumePlugin(source string) string {
	const prefix = "kubernetes.io~"
	plugin, isPlugin := strings.CutPrefix(path.Base(path.Dir(path.Clean(source))), prefix)
	if !isPlugin {
		return ""
	}
	return plugin
}

// IsWatched says whether kubelet exchanges the content of the volume at source while containers read it.
func IsWatched(source string) bool {
	switch VolumePlugin(source) {
	case ConfigMap, Secret, Projected, DownwardAPI:
		return true
	}
	return false
}

// EphemeralPath is where the guest has the emptyDir in memory that the host has at source. Its name is unique in a pod.
func EphemeralPath(source string) string {
	return path.Join(ephemeralDir, path.Base(path.Clean(source)))
}

// LocalPath is where the guest has an emptyDir that the host has at source, where the guest cannot reach that.
func LocalPath(source string) string { return path.Join(localDir, path.Base(path.Clean(source))) }

// WatchablePath is where the guest has its copy of a watched folder; shared is the folder's path on the share.
func WatchablePath(shared string) string { return path.Join(watchableDir, path.Base(shared)) }

// MessageMount returns the mount of the file into which the container may write its last words. It is known by its place in
// the container, or by the name that kubelet gives such files: …/pods/UID/containers/NAME/ID.
func MessageMount(s *specs.Spec) (m specs.Mount, ok bool) {
	at := path.Clean(cmp.Or(s.Annotations[agentproto.AnnotationMessagePath], agentproto.DefaultMessagePath))
	for _, is := range []func(specs.Mount) bool{
		func(m specs.Mount) bool { return path.Clean(m.Destination) == at },
		func(m specs.Mount) bool {
			parts := strings.Split(path.Clean(m.Source), "/")
			n := len(parts)
			return n > 5 && parts[n-3] == "containers" && parts[n-5] == "pods"
		},
	} {
		for _, m := range s.Mounts {
			if IsBind(m) && is(m) {
				return m, true
			}
		}
	}
	return specs.Mount{}, false
}

// isPodMemory recognises the pod's shared memory as containerd and CRI-O mount it. A volume that somebody has mounted
// in its stead is none.
func isPodMemory(m specs.Mount) bool {
	source := path.Clean(m.Source)
	return path.Clean(m.Destination) == "/dev/shm" && path.Base(source) == "shm" && VolumePlugin(source) == ""
}

// PageBytes reads the page size of a hugepage limit, "2MB" for instance.
func PageBytes(size string) (int64, error) {
	for suffix, unit := range map[string]int64{"KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30} {
		number, ok := strings.CutSuffix(size, suffix)
		if !ok {
			continue
		}
		if n, err := strconv.ParseInt(number, 10, 32); err == nil && n > 0 {
			return n * unit, nil
		}
	}
	return 0, fmt.Errorf("page size %q of a hugepage limit: %w", size, ErrUnsupported)
}
