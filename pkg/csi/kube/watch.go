package kube

import (
	"context"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/katadirect/katadirect/pkg/csi/mode"
)

// watched is a kind of object that is kept in memory, as far as trim leaves it.
type watched struct{ cache.SharedInformer }

func watchPods(client rest.Interface, node string, log *slog.Logger) (watched, error) {
	ofNode := fields.OneTermEqualSelector("spec.nodeName", node)
	return watch(client, "pods", ofNode, &corev1.Pod{}, log, trimPod)
}

func watchClasses(client rest.Interface, log *slog.Logger) (watched, error) {
	return watch(client, "runtimeclasses", fields.Everything(), &nodev1.RuntimeClass{}, log, trimClass)
}

func trimPod(object any) (any, error) {
	pod, isPod := object.(*corev1.Pod)
	if !isPod {
		return object, nil
	}
	trimmed := &corev1.Pod{
		ObjectMeta: names(pod.ObjectMeta),
		Spec:       corev1.PodSpec{RuntimeClassName: pod.Spec.RuntimeClassName},
	}
	if security := pod.Spec.SecurityContext; security != nil && security.FSGroupChangePolicy != nil {
		trimmed.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroupChangePolicy: security.FSGroupChangePolicy}
	}
	return trimmed, nil
}

func trimClass(object any) (any, error) {
	class, isClass := object.(*nodev1.RuntimeClass)
	if !isClass {
		return object, nil
	}
	trimmed := &nodev1.RuntimeClass{ObjectMeta: names(class.ObjectMeta), Handler: class.Handler}
	if says, annotated := class.Annotations[mode.Key]; annotated {
		trimmed.Annotations = map[string]string{mode.Key: says}
	}
	return trimmed, nil
}

// names are what the memory itself and the look-ups need of an object's metadata.
func names(m metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: m.Name, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion}
}

func watch(
	client rest.Interface, resource string, which fields.Selector, example runtime.Object, log *slog.Logger, trim cache.TransformFunc,
) (watched, error) {
	w := watched{cache.NewSharedInformer(
		cache.NewListWatchFromClient(client, resource, metav1.NamespaceAll, which), example, 0)}
	if err := w.SetTransform(trim); err != nil {
		return w, fmt.Errorf("watch %s: %w", resource, err)
	}
	err := w.SetWatchErrorHandlerWithContext(func(ctx context.Context, _ *cache.Reflector, err error) {
		log.WarnContext(ctx, "watching Kubernetes' objects is interrupted; each look-up asks the API server meanwhile, or "+
			"uses what is known", "objects", resource, "error", err)
	})
	if err != nil {
		return w, fmt.Errorf("watch %s: %w", resource, err)
	}
	return w, nil
}

// get returns what is known of an object, nil if nothing is.
func (w watched) get(key string) any {
	object, found, err := w.GetStore().GetByKey(key)
	if err != nil || !found {
		return nil
	}
	return object
}
