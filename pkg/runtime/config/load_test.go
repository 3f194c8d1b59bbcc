package config

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// write makes a file below dir and returns its path.
func write(t *testing.T, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// logTo returns a logger and what it wrote.
func logTo() (*slog.Logger, *bytes.Buffer) {
	var buf bytes.Buffer
	return slog.New(slog.NewTextHandler(&buf, nil)), &buf
}

// kataFile is Kata's own template in small: the keys we honour, and some of those we do not.
const kataFile = `
[hypervisor.qemu]
path = "/opt/kata/bin/qemu-system-x86_64"
kernel = "/opt/kata/vmlinux"
initrd = "/opt/kata/initrd"
machine_type = "pc"
enable_annotations = ["default_memory", "kernel_params"]
kernel_params = "agent.log=debug"
default_vcpus = 1.5
default_maxvcpus = 8
default_maxmemory = 8192
memory_slots = 4
virtio_fs_cache_size = 0
block_device_cache_set = true
block_device_cache_direct = true
block_device_cache_noflush = true
enable_iothreads = true
default_bridges = 2
default_memory = 4096
virtio_fs_daemon = "/usr/libexec/virtiofsd"
virtio_fs_cache = "never"
virtio_fs_extra_args = ["--thread-pool-size=4"]
disable_block_device_use = true
block_device_driver = "virtio-scsi"
block_device_aio = "io_uring"
[agent.kata]
dial_timeout = 90
debug_console_enabled = true
kernel_modules = ["nbd nbds_max=2"]
[runtime]
enable_debug = true
internetworking_model = "passt"
disable_new_netns = true
static_sandbox_resource_mgmt = true
emptydir_mode = "block-plain"
disable_guest_empty_dir = true
sandbox_bind_mounts = ["/opt/agents"]
enable_pprof = true
sandbox_cgroup_only = true
create_container_timeout = 120
disable_guest_seccomp = true
`

func TestKatasOwnFileIsReadUnderItsOwnNames(t *testing.T) {
	log, said := logTo()
	path := write(t, t.TempDir(), "configuration.toml", kataFile)
	got, err := load(path, nil, "", log)
	if err != nil {
		t.Fatal(err)
	}
	want := Hypervisor{
		Path: "/opt/kata/bin/qemu-system-x86_64", Kernel: "/opt/kata/vmlinux", Initrd: "/opt/kata/initrd",
		KernelParams: "agent.log=debug", MemoryMiB: 4096, VCPUs: 2, Bridges: 2,
		EnableAnnotations: []string{"default_memory", "kernel_params"},
		BlockDriver:       BlockVirtioSCSI, BlockAIO: "io_uring", DisableBlock: true,
		MaxVCPUs: 8, MaxMemoryMiB: 8192, MemorySlots: 4,
		BlockCache: true, BlockCacheDirect: true, BlockCacheNoFlush: true, IOThreads: true, SharedFS: SharedVirtiofs,
		VirtiofsDaemon: "/usr/libexec/virtiofsd", VirtiofsCache: "never",
		VirtiofsArgs: []string{"--thread-pool-size=4"},
	}
	if diff := compare(got.Hypervisor, want); diff != "" {
		t.Error(diff)
	}
	wantAgent := Agent{DialTimeout: 90 * time.Second, DebugConsole: true, KernelModules: []string{"nbd nbds_max=2"}}
	if diff := compare(got.Agent, wantAgent); diff != "" {
		t.Error(diff)
	}
	wantRuntime := Runtime{
		Debug: true, CreateContainerTimeout: 2 * time.Minute, DisableGuestSeccomp: true,
		NetworkModel: NetworkPasst, DisableNewNetNS: true, StaticResources: true,
		EmptyDirMode: EmptyDirBlock, DisableGuestEmptyDir: true, BindMounts: []string{"/opt/agents"}, Pprof: true,
	}
	if diff := compare(got.Runtime, wantRuntime); diff != "" {
		t.Error(diff)
	}
	if got.Path != path {
		t.Errorf("read %s", got.Path)
	}
	if n := strings.Count(said.String(), "have no effect here"); n != 1 {
		t.Errorf("unknown keys warned about %d times, want once:\n%s", n, said)
	}
	for _, key := range []string{"hypervisor.qemu.virtio_fs_cache_size", "runtime.sandbox_cgroup_only", "machine_type=pc"} {
		if !strings.Contains(said.String(), key) {
			t.Errorf("%s is not warned about:\n%s", key, said)
		}
	}
}

func TestSearchOrder(t *testing.T) {
	dir := t.TempDir()
	etc := write(t, dir, "etc/configuration.toml", "[hypervisor.qemu]\ndefault_memory = 101\n")
	usr := write(t, dir, "usr/configuration.toml", "[hypervisor.qemu]\ndefault_memory = 102\n")
	own := write(t, dir, "own/configuration.toml", "[hypervisor.qemu]\ndefault_memory = 103\n")
	link := filepath.Join(dir, "link.toml")
	if err := os.Symlink(usr, link); err != nil {
		t.Fatal(err)
	}
	none := filepath.Join(dir, "none.toml")
	for _, tc := range []struct {
		name, path, env string
		defaults        []string
		want            int
	}{
		{"the runtime's options before all", own, usr, []string{etc, usr}, 103},
		{"the first default that exists", "", "", []string{none, usr}, 102},
		{"the environment chooses among the defaults", "", link, []string{etc, usr}, 102},
		{"the environment may not name another file", "", own, []string{etc, usr}, 101},
		{"no file at all is the defaults", "", "", []string{none}, Default().Hypervisor.MemoryMiB},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := load(tc.path, tc.defaults, tc.env, slog.New(slog.DiscardHandler))
			if err != nil || got.Hypervisor.MemoryMiB != tc.want {
				t.Errorf("default_memory %d, %v; want %d", got.Hypervisor.MemoryMiB, err, tc.want)
			}
		})
	}
	if _, err := load(none, []string{etc}, "", slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a file that was asked for by name and is missing gave no error")
	}
}

func TestDropInsBesideTheResolvedFileOverrideInNameOrder(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir, "real/configuration-qemu.toml",
		"[hypervisor.qemu]\ndefault_memory = 100\ndefault_bridges = 3\nkernel = \"/k\"\n")
	write(t, dir, "real/config.d/20-b.toml", "[hypervisor.qemu]\ndefault_memory = 300\n[katadirect]\naccel = \"tcg\"\n")
	write(t, dir, "real/config.d/10-a.toml", "[hypervisor.qemu]\ndefault_memory = 200\ndefault_bridges = 4\n")
	write(t, dir, "real/config.d/30-c.toml.bak", "[hypervisor.qemu]\ndefault_memory = 400\n")
	link := filepath.Join(dir, "configuration.toml")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	got, err := load(link, nil, "", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	h := got.Hypervisor
	if h.MemoryMiB != 300 || h.Bridges != 4 || h.Kernel != "/k" || got.Direct.Accel != "tcg" {
		t.Errorf("read %+v, %+v", h, got.Direct)
	}
}

func TestAFileThatCannotBeMeantIsRefusedWithTheReason(t *testing.T) {
	qemu := "[hypervisor.qemu]\n"
	for _, tc := range []struct{ name, content, says string }{
		{"wrong type", qemu + "default_memory = \"much\"\n", "line 2"},
		{"not TOML", "hypervisor = [\n", "configuration.toml"},
		{"another hypervisor", "[hypervisor.clh]\npath = \"/x\"\n", "QEMU is the only hypervisor"},
		{"an image instead of an initrd", qemu + "image = \"/x.img\"\n", "set initrd"},
		{"a block driver nobody has", qemu + "block_device_driver = \"nvme\"\n", "block_device_driver"},
		{"an aio nobody has", qemu + "block_device_aio = \"fast\"\n", "block_device_aio"},
		{"no file share", qemu + "shared_fs = \"none\"\n", "shared_fs"},
		{"a network nobody has", "[runtime]\ninternetworking_model = \"slirp\"\n", "internetworking_model"},
		{"emptyDir nowhere", "[runtime]\nemptydir_mode = \"disk\"\n", "emptydir_mode"},
		{"a folder from nowhere", "[runtime]\nsandbox_bind_mounts = [\"a\"]\n", "sandbox_bind_mounts"},
		{"fewer than no processors", qemu + "default_maxvcpus = -1\n", "default_maxvcpus"},
		{"a machine without memory", qemu + "default_memory = 0\n", "default_memory"},
		{"vcpus of a wrong type", qemu + "default_vcpus = [1]\n", "default_vcpus"},
		{"no bridge to plug into", qemu + "default_bridges = 0\n", "default_bridges"},
		{"a negative time-out", "[agent.kata]\ndial_timeout = -1\n", "dial_timeout"},
		{"an accelerator nobody has", "[katadirect]\naccel = \"hvf\"\n", "accel"},
		{"a huge file", "#" + strings.Repeat("x", maxFileBytes), "regular file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := write(t, t.TempDir(), "configuration.toml", tc.content)
			_, err := load(path, nil, "", slog.New(slog.DiscardHandler))
			if err == nil || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v; want one that names the file and says %q", err, tc.says)
			}
		})
	}
}

func TestProcessors(t *testing.T) {
	for _, tc := range []struct {
		value string
		want  int
	}{{"2", 2}, {"0.5", 1}, {"2.25", 3}, {"0", 1}, {"-1", runtime.NumCPU()}} {
		path := write(t, t.TempDir(), "configuration.toml", "[hypervisor.qemu]\ndefault_vcpus = "+tc.value+"\n")
		got, err := load(path, nil, "", slog.New(slog.DiscardHandler))
		if err != nil || got.Hypervisor.VCPUs != tc.want {
			t.Errorf("default_vcpus = %s gives %d, %v; want %d", tc.value, got.Hypervisor.VCPUs, err, tc.want)
		}
	}
}
