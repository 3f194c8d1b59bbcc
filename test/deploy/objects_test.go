package deploy

import (
	"bufio"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func newReader(text string) *bufio.Reader { return bufio.NewReader(strings.NewReader(text)) }

// podSpecOf is what a workload, or a pod, runs.
func podSpecOf(object runtime.Object) (corev1.PodSpec, bool) {
	switch o := object.(type) {
	case *corev1.Pod:
		return o.Spec, true
	case *appsv1.DaemonSet:
		return o.Spec.Template.Spec, true
	case *appsv1.Deployment:
		return o.Spec.Template.Spec, true
	case *appsv1.StatefulSet:
		return o.Spec.Template.Spec, true
	case *batchv1.Job:
		return o.Spec.Template.Spec, true
	}
	return corev1.PodSpec{}, false
}
