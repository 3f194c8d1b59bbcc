package sandbox

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katadirect/katadirect/pkg/runtime/sandbox/guestspec"
)

// pidsOf guesses which container's processes a new one is to see that shares some: "" for the pod's.
//
// kubelet shares one pid namespace among all containers of a pod or among none. So where others have their own, the new
// one is a debugging container that has a target. The spec names the target by a process of the host, which is the
// hypervisor for all; but with one container that runs there is only one it can be.
func (s *Sandbox) pidsOf(c *container, spec *specs.Spec) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	kind := guestspec.PIDs(spec)
	c.ownPIDs = kind == guestspec.PIDsOwn && guestspec.IsOfPod(spec)
	if kind != guestspec.PIDsShared || !guestspec.IsOfPod(spec) {
		return ""
	}
	var targets []string
	for id, other := range s.containers {
		if other.ownPIDs && !other.ended {
			targets = append(targets, id)
		}
	}
	switch len(targets) {
	case 0:
		return ""
	case 1:
		return targets[0]
	}
	s.log.Warn("the container is to see the processes of another, and nothing tells of which: it sees none",
		"container", c.id, "candidates", targets)
	return ""
}
