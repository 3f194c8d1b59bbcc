package deploy

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// kubelet looks a port's name up in the container that is probed alone, whatever the pod's others call theirs.
func TestProbesAskPortsThatThereAre(t *testing.T) {
	for how, all := range renderings(t) {
		for key, spec := range podSpecs(all) {
			for _, c := range spec.Containers {
				for _, port := range probedPorts(c) {
					if !isThere(spec, c, port) {
						t.Errorf("%s: %s probes port %s of %s, which is not there", how, key, port.String(), c.Name)
					}
				}
			}
		}
	}
}

func probedPorts(c corev1.Container) (ports []intstr.IntOrString) {
	for _, p := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
		if p != nil && p.HTTPGet != nil {
			ports = append(ports, p.HTTPGet.Port)
		}
	}
	return ports
}

// isThere says whether a port is the container's own, or, by its number, any container's of the pod.
func isThere(spec corev1.PodSpec, c corev1.Container, port intstr.IntOrString) bool {
	if port.Type == intstr.String {
		return slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.Name == port.StrVal })
	}
	return slices.ContainsFunc(spec.Containers, func(c corev1.Container) bool {
		return slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.ContainerPort == port.IntVal })
	})
}
