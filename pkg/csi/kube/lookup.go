package kube

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"

	"github.com/katadirect/katadirect/pkg/csi/mode"
)

// PodName is how kubelet names the pod of a publication (podInfoOnMount).
type PodName struct{ Namespace, Name, UID string }

func (p PodName) String() string { return p.Namespace + "/" + p.Name }

// Pod is what is looked up of a pod; what it does not say is "".
type Pod struct {
	RuntimeClass string
	// FSGroupChangePolicy is "Always" or "OnRootMismatch".
	FSGroupChangePolicy string
}

// Pod looks a pod up. One of that name with another UID is another pod, and ErrNotFound.
func (c *Cluster) Pod(ctx context.Context, name PodName) (Pod, error) {
	// A pod of a StatefulSet has its predecessor's name, and the news of the change may be on its way.
	if known, isPod := c.pods.get(name.String()).(*corev1.Pod); isPod && string(known.UID) == name.UID {
		return podOf(known), nil
	}
	pod := &corev1.Pod{}
	err := ask(ctx, c.core.Get().Namespace(name.Namespace).Resource("pods"), name.Name, pod)
	if err != nil {
		return Pod{}, fmt.Errorf("look up pod %s: %w", name, err)
	}
	if string(pod.UID) != name.UID {
		return Pod{}, fmt.Errorf("%w: pod %s has the uid %s, and the call is for %s, which is gone", ErrNotFound, name, pod.UID, name.UID)
	}
	return podOf(pod), nil
}

func podOf(pod *corev1.Pod) (p Pod) {
	if class := pod.Spec.RuntimeClassName; class != nil {
		p.RuntimeClass = *class
	}
	if security := pod.Spec.SecurityContext; security != nil && security.FSGroupChangePolicy != nil {
		p.FSGroupChangePolicy = string(*security.FSGroupChangePolicy)
	}
	return p
}

// Runtime returns what the RuntimeClass of that name says. An annotation that is no mode is an error: guessing what it
// means could take a volume to the wrong place.
func (c *Cluster) Runtime(ctx context.Context, className string) (mode.Runtime, error) {
	class, known := c.classes.get(className).(*nodev1.RuntimeClass)
	if !known {
		class = &nodev1.RuntimeClass{}
		if err := ask(ctx, c.node.Get().Resource("runtimeclasses"), className, class); err != nil {
			return mode.Runtime{}, fmt.Errorf("look up RuntimeClass %q: %w", className, err)
		}
	}
	says, err := annotated(class.Annotations)
	if err != nil {
		return mode.Runtime{}, fmt.Errorf("RuntimeClass %q: %w", className, err)
	}
	return mode.Runtime{Class: className, Handler: class.Handler, Says: says}, nil
}

// annotated reads the annotation; "" if there is none.
func annotated(annotations map[string]string) (mode.Mode, error) {
	text, found := annotations[mode.Key]
	if !found {
		return "", nil
	}
	m, err := mode.Parse(text)
	if err != nil {
		return "", fmt.Errorf("annotation %s: %w", mode.Key, err)
	}
	return m, nil
}

// ask gets one object from the API server.
func ask(ctx context.Context, request *rest.Request, name string, into runtime.Object) error {
	if wrong := rest.IsValidPathSegmentName(name); name == "" || len(wrong) > 0 {
		return fmt.Errorf("%w: %q is no name", ErrNotFound, name)
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return explain(request.Name(name).Do(ctx).Into(into))
}

// explain says of an API server's refusal, or silence, what a person can do about it.
func explain(err error) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return fmt.Errorf("%w: the driver's account may not: give it the ClusterRole of docs/modes.md: %w", ErrUnavailable, err)
	}
	return fmt.Errorf("%w: see whether the API server can be reached from this node, and what --kubernetes says: %w",
		ErrUnavailable, err)
}
