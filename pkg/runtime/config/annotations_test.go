package config

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

func compare(got, want any) string {
	if reflect.DeepEqual(got, want) {
		return ""
	}
	return strings.Join([]string{"got", fmt.Sprintf("%+v", got), "want", fmt.Sprintf("%+v", want)}, " ")
}

func TestAnnotationsOfThePodOverride(t *testing.T) {
	c := Default()
	c.Hypervisor.EnableAnnotations = []string{"default_.*", "kernel_params", "enable_iommu"}
	c.Hypervisor.KernelParams = "quiet"
	log, said := logTo()
	got, err := c.WithAnnotations(map[string]string{
		"io.katacontainers.config.hypervisor.default_memory":        "512",
		"io.katacontainers.config.hypervisor.default_vcpus":         "2",
		"io.katacontainers.config.hypervisor.kernel_params":         "agent.log=debug",
		"io.katacontainers.config.hypervisor.enable_iommu":          "true",
		"io.katacontainers.config.runtime.create_container_timeout": "7",
		"io.katacontainers.config.runtime.disable_guest_seccomp":    "true",
		"io.kubernetes.cri.sandbox-name":                            "p",
	}, log)
	if err != nil {
		t.Fatal(err)
	}
	want := c
	want.Hypervisor.MemoryMiB, want.Hypervisor.VCPUs = 512, 2
	want.Hypervisor.KernelParams = "quiet agent.log=debug"
	want.Runtime.CreateContainerTimeout, want.Runtime.DisableGuestSeccomp = 7*time.Second, true
	if diff := compare(got, want); diff != "" {
		t.Error(diff)
	}
	if s := said.String(); strings.Count(s, "no effect") != 1 || !strings.Contains(s, "enable_iommu") ||
		strings.Contains(s, "sandbox-name") {
		t.Errorf("warned %q", s)
	}
}

func TestAnAnnotationThatMayNotBeSetOrReadFailsThePod(t *testing.T) {
	const prefix = "io.katacontainers.config."
	for _, tc := range []struct{ name, enabled, key, value string }{
		{"not enabled", "kernel_params", "hypervisor.default_memory", "512"},
		{"enabled by nothing", "", "hypervisor.kernel_params", "x"},
		{"a pattern that does not compile", "(", "hypervisor.kernel_params", "x"},
		{"not a number", ".*", "hypervisor.default_memory", "much"},
		{"too little", ".*", "hypervisor.default_memory", "1"},
		{"no processors", ".*", "hypervisor.default_vcpus", "0"},
		{"not a processor count", ".*", "hypervisor.default_vcpus", "NaN"},
		{"not a time", ".*", "runtime.create_container_timeout", "-1"},
		{"not a truth", ".*", "runtime.disable_guest_seccomp", "perhaps"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := Default()
			if tc.enabled != "" {
				c.Hypervisor.EnableAnnotations = []string{tc.enabled}
			}
			log, _ := logTo()
			_, err := c.WithAnnotations(map[string]string{prefix + tc.key: tc.value}, log)
			if !errors.Is(err, ErrAnnotation) || !strings.Contains(err.Error(), prefix+tc.key) {
				t.Errorf("error %v; want one that names the annotation", err)
			}
		})
	}
}
