package config

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// whole fails the test for a configuration that a machine must not be made from.
func whole(t *testing.T, c Config) {
	t.Helper()
	if c.Hypervisor.VCPUs < 1 || c.Hypervisor.MemoryMiB < 64 || c.Hypervisor.Bridges < 1 {
		t.Errorf("%d processors, %d MiB, %d bridges", c.Hypervisor.VCPUs, c.Hypervisor.MemoryMiB, c.Hypervisor.Bridges)
	}
	for _, d := range []time.Duration{c.Agent.DialTimeout, c.Runtime.CreateContainerTimeout} {
		if d <= 0 {
			t.Errorf("a time-out of %s", d)
		}
	}
}

// The file is an administrator's: mistakes must be told, and never become a machine that makes no sense.
func FuzzLoad(f *testing.F) {
	for _, text := range []string{
		"", "\xff\xfe", "[", "a = ", "[hypervisor.qemu]", "[hypervisor]\nqemu = 1", "[hypervisor.qemu]\ndefault_vcpus = nan",
		"[hypervisor.qemu]\ndefault_vcpus = -1e400", "[hypervisor.qemu]\ndefault_vcpus = \"two\"",
		"[hypervisor.qemu]\ndefault_memory = -1", "[hypervisor.qemu]\ndefault_memory = 99999999999999999999",
		"[hypervisor.qemu]\ndefault_bridges = 1000000", "[hypervisor.qemu]\nkernel = \"\\u0000\"",
		"[hypervisor.qemu]\nenable_annotations = [\"(\", 1]", "[agent.kata]\ndial_timeout = -5",
		"[hypervisor.qemu]\n[agent.kata]\ndial_timeout = 0\n[runtime]\ncreate_container_timeout = 9223372036854775807",
		"[hypervisor.clh]\npath = \"/bin/clh\"", "[katadirect]\naccel = \"magic\"\n[hypervisor.qemu]",
		"[hypervisor.qemu]\nvirtio_fs_extra_args = [[[[[[[[1]]]]]]]]", strings.Repeat("[a.", 1000),
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		file := filepath.Join(t.TempDir(), "configuration.toml")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(file)
		if err != nil {
			if !strings.Contains(err.Error(), file) {
				t.Errorf("the error does not name the file: %v", err)
			}
			return
		}
		whole(t, c)
	})
}

// Annotations are the pod's author's, who is less trusted than the administrator.
func FuzzAnnotations(f *testing.F) {
	for _, key := range []string{"default_vcpus", "default_memory", "kernel_params", "block_device_driver", "virtio_fs_cache", "path", "kernel"} {
		for _, value := range []string{"", "-1", "0", "1e9", "99999999999999999999", "nan", "\x00", "--help", "1\n2"} {
			f.Add("hypervisor."+key, value)
		}
	}
	f.Add("runtime.create_container_timeout", "18446744073709551615")
	f.Add("agent.kernel_modules", "x")
	f.Fuzz(func(t *testing.T, key, value string) {
		c := Default()
		c.Hypervisor.EnableAnnotations = []string{".*"}
		c, err := c.WithAnnotations(map[string]string{"io.katacontainers.config." + key: value}, slog.New(slog.DiscardHandler))
		if err == nil {
			whole(t, c)
		}
		// Nothing is allowed that the file does not allow, whatever it is called.
		closed, err := Default().WithAnnotations(map[string]string{"io.katacontainers.config.hypervisor." + key: value}, slog.New(slog.DiscardHandler))
		if err == nil {
			t.Errorf("hypervisor.%s is allowed by nothing, and gives %+v", key, closed.Hypervisor)
		}
	})
}
