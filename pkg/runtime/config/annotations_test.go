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
		{"a program that no pattern fits", ".*", "hypervisor.path", "/bin/sh"},
		{"a program by a detour", ".*", "hypervisor.virtio_fs_daemon", "/usr/libexec/../../bin/sh"},
		{"a relative kernel", ".*", "hypervisor.kernel", "vmlinux"},
		{"a network nobody has", "", "runtime.internetworking_model", "slirp"},
		{"networks that exclude each other", "", "runtime.disable_new_netns", "true"},
		{"a driver nobody has", ".*", "hypervisor.block_device_driver", "nvme"},
		{"no list", ".*", "hypervisor.virtio_fs_extra_args", "--all"},
		{"another folder to share", ".*", "hypervisor.virtio_fs_extra_args", `["-o", "source=/"]`},
		{"another folder to share, in one word", ".*", "hypervisor.virtio_fs_extra_args", `["--xattr", "--shared-dir=/"]`},
		{"files that are not locked in", ".*", "hypervisor.virtio_fs_extra_args", `["--sandbox=none"]`},
		{"parameters on two lines", ".*", "hypervisor.kernel_params", "a\nb"},
		{"a policy", "", "agent.policy", "cGFja2FnZQ=="},
		{"not a truth", ".*", "runtime.disable_guest_seccomp", "perhaps"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := Default()
			if tc.enabled != "" {
				c.Hypervisor.EnableAnnotations = []string{tc.enabled}
			}
			log, _ := logTo()
			_, err := c.WithAnnotations(map[string]string{prefix + tc.key: tc.value}, log)
			if !errors.Is(err, ErrAnnotation) || !strings.Contains(err.Error(), strings.TrimPrefix(prefix+tc.key, prefix+"runtime.")) {
				t.Errorf("error %v; want one that names the annotation", err)
			}
		})
	}
}

func TestEveryAnnotationHasItsEffect(t *testing.T) {
	values := map[string]string{
		"hypervisor.path": "/opt/qemu", "hypervisor.kernel": "/k", "hypervisor.initrd": "/i", "hypervisor.kernel_params": "a=b",
		"hypervisor.default_vcpus": "3", "hypervisor.default_max_vcpus": "7", "hypervisor.default_memory": "777", "hypervisor.memory_slots": "3",
		"hypervisor.disable_block_device_use": "true", "hypervisor.block_device_driver": "virtio-scsi", "hypervisor.block_device_aio": "native",
		"hypervisor.block_device_cache_set": "true", "hypervisor.block_device_cache_direct": "true", "hypervisor.block_device_cache_noflush": "true",
		"hypervisor.enable_iothreads": "true", "hypervisor.virtio_fs_daemon": "/opt/virtiofsd", "hypervisor.virtio_fs_cache": "never",
		"hypervisor.virtio_fs_extra_args": `["-d"]`, "runtime.create_container_timeout": "3", "runtime.disable_guest_seccomp": "true",
		"runtime.internetworking_model": "none", "runtime.enable_pprof": "true", "agent.kernel_modules": "a b=1; c", "agent.container_pipe_size": "4096",
	}
	with := func(key, value string) Config {
		c := Default()
		c.Hypervisor.EnableAnnotations, c.Hypervisor.ValidPaths, c.Hypervisor.ValidDaemons = []string{".*"}, []string{"/opt/*"}, []string{"/opt/*"}
		ofPod := map[string]string{}
		if key != "" {
			ofPod[annotationPrefix+key] = value
		}
		log, said := logTo()
		got, err := c.WithAnnotations(ofPod, log)
		if err != nil || said.Len() > 0 {
			t.Errorf("%s = %s: %v\n%s", key, value, err, said)
		}
		return got
	}
	for key := range annotations {
		switch key {
		case "agent.policy", "hypervisor.shared_fs", "runtime.disable_new_netns": // refused, of one value, and only beside another
			continue
		}
		if compare(with(key, values[key]), with("", "")) == "" {
			t.Errorf("%s has no effect", key)
		}
	}
	if got := with("agent.kernel_modules", "a b=1; c").Agent.KernelModules; compare(got, []string{"a b=1", "c"}) != "" {
		t.Errorf("modules %q", got)
	}
	if _, err := Default().WithAnnotations(map[string]string{"io.katacontainers.config_path": "/tmp/x"}, nil); !errors.Is(err, ErrAnnotation) {
		t.Errorf("a configuration of the pod's own: %v", err)
	}
}
