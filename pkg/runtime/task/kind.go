package task

import (
	"fmt"
)

// Kind says what part a container plays in its pod.
type Kind int

const (
	// Single is a container without a pod, as ctr makes it: it has a machine to itself.
	Single Kind = iota
	// PodSandbox is the container that stands for the pod; the machine lives as long as it does.
	PodSandbox
	// PodContainer is a container in a pod that has a machine already.
	PodContainer
)

// The annotations by which the callers tell, in the order in which Kata looks at them.
var (
	kindKeys = []string{
		"io.kubernetes.cri.container-type",  // containerd
		"io.kubernetes.cri-o.ContainerType", // CRI-O
		"io.kubernetes.docker.type",         // dockershim
	}
	sandboxKeys = []string{
		"io.kubernetes.cri.sandbox-id",
		"io.kubernetes.cri-o.SandboxID",
		"io.kubernetes.sandbox.id",
	}
)

// Classify tells from a container's annotations what it is and which sandbox it belongs to. The owner of a machine,
// a Single or a PodSandbox, is its own sandbox.
func Classify(id string, annotations map[string]string) (Kind, string, error) {
	value, key := first(annotations, kindKeys)
	switch value {
	case "":
		return Single, id, nil
	case "sandbox", "podsandbox":
		return PodSandbox, id, nil
	case "container":
		sandbox, _ := first(annotations, sandboxKeys)
		if sandbox == "" {
			return 0, "", fmt.Errorf("%w: container %s says by annotation %s that it is in a pod, but not in which",
				ErrInvalid, id, key)
		}
		return PodContainer, sandbox, nil
	default:
		return 0, "", fmt.Errorf("%w: annotation %s of container %s is %q, want \"sandbox\" or \"container\"",
			ErrInvalid, key, id, value)
	}
}

// first returns the value and the name of the first of keys that annotations has.
func first(annotations map[string]string, keys []string) (value, key string) {
	for _, key := range keys {
		if value, ok := annotations[key]; ok {
			return value, key
		}
	}
	return "", ""
}
