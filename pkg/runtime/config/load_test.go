package config

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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
no_such_key = true
valid_hypervisor_paths = ["/opt/kata/bin/*"]
valid_virtio_fs_daemon_paths = ["/usr/libexec/*"]
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
[factory]
enable_template = true
[agent.kata]
dial_timeout = 90
debug_console_enabled = true
kernel_modules = ["nbd nbds_max=2"]
[runtime]
enable_debug = true
internetworking_model = "none"
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
	path := write(t, t.TempDir(), "configuration.toml", kataFile)
	got, err := load(path, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	want := Hypervisor{
		Path: "/opt/kata/bin/qemu-system-x86_64", Kernel: "/opt/kata/vmlinux", Initrd: "/opt/kata/initrd",
		KernelParams: "agent.log=debug", MemoryMiB: 4096, VCPUs: 2, Bridges: 2,
		EnableAnnotations: []string{"default_memory", "kernel_params"},
		BlockDriver:       BlockVirtioSCSI, BlockAIO: "io_uring", DisableBlock: true,
		ValidPaths: []string{"/opt/kata/bin/*"}, ValidDaemons: []string{"/usr/libexec/*"},
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
		NetworkModel: NetworkNone, DisableNewNetNS: true, StaticResources: true,
		EmptyDirMode: EmptyDirBlock, BindMounts: []string{"/opt/agents"}, Pprof: true,
	}
	if diff := compare(got.Runtime, wantRuntime); diff != "" {
		t.Error(diff)
	}
	if got.Path != path {
		t.Errorf("read %s", got.Path)
	}
	// What Kata's own file has on every host is not worth a word; what nobody knows is.
	if said := strings.Join(got.Notices, "\n"); !strings.Contains(said, "hypervisor.qemu.no_such_key") || !strings.Contains(said, `machine_type = "pc"`) || !strings.Contains(said, "is lost") ||
		!strings.Contains(said, "sandbox_cgroup_only = true") ||
		strings.Contains(said, "virtio_fs_cache_size") || strings.Contains(said, "factory") || len(got.Notices) != 4 {
		t.Errorf("notices:\n%s", said)
	}
	path = write(t, t.TempDir(), "configuration.toml", "[hypervisor.qemu]\n[runtime]\nsandbox_cgroup_only = false\n")
	if got, err = load(path, nil, ""); err != nil || len(got.Notices) > 0 {
		t.Errorf("with what Kata's own file has: %q, %v", got.Notices, err)
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
			got, err := load(tc.path, tc.defaults, tc.env)
			if err != nil || got.Hypervisor.MemoryMiB != tc.want {
				t.Errorf("default_memory %d, %v; want %d", got.Hypervisor.MemoryMiB, err, tc.want)
			}
		})
	}
	if _, err := load(none, []string{etc}, ""); err == nil {
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
	got, err := load(link, nil, "")
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
		{"neither files nor disks", qemu + "shared_fs = \"none\"\ndisable_block_device_use = true\n", "shared_fs"},
		{"a network nobody has", "[runtime]\ninternetworking_model = \"slirp\"\n", "internetworking_model"},
		{"emptyDir nowhere", "[runtime]\nemptydir_mode = \"disk\"\n", "emptydir_mode"},
		{"a folder from nowhere", "[runtime]\nsandbox_bind_mounts = [\"a\"]\n", "sandbox_bind_mounts"},
		{"fewer than no processors", qemu + "default_maxvcpus = -1\n", "default_maxvcpus"},
		{"a machine without memory", qemu + "default_memory = 5\n", "line 2: default_memory = 5 is below 64"},
		{"a program from anywhere", qemu + "path = \"qemu\"\n", "line 2: path: \"qemu\" is not an absolute path"},
		{"annotations by no pattern", qemu + "kernel = \"/k\"\nenable_annotations = [\"(\"]\n", "line 3: enable_annotations"},
		{"a promise nobody keeps", qemu + "confidential_guest = true\n", "line 2: confidential_guest"},
		{"two that exclude each other", "[runtime]\n\ndisable_new_netns = true\n", "line 3: disable_new_netns"},
		{"two mistakes at once", qemu + "default_memory = 5\nshared_fs = \"9p\"\n", "line 3: shared_fs"},
		{"a dotted key", "hypervisor.qemu.default_memory = 5\n", "line 1: default_memory"},
		{"vcpus of a wrong type", qemu + "default_vcpus = [1]\n", "default_vcpus"},
		{"no bridge to plug into", qemu + "default_bridges = -1\n", "default_bridges"},
		{"a negative time-out", "[agent.kata]\ndial_timeout = -1\n", "dial_timeout"},
		{"an accelerator nobody has", "[katadirect]\naccel = \"hvf\"\n", "accel"},
		{"a huge file", "#" + strings.Repeat("x", maxFileBytes), "regular file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := write(t, t.TempDir(), "configuration.toml", tc.content)
			_, err := load(path, nil, "")
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
		got, err := load(path, nil, "")
		if err != nil || got.Hypervisor.VCPUs != tc.want {
			t.Errorf("default_vcpus = %s gives %d, %v; want %d", tc.value, got.Hypervisor.VCPUs, err, tc.want)
		}
	}
}

func TestKatasZeroesAreItsDefaults(t *testing.T) {
	path := write(t, t.TempDir(), "configuration.toml", "[hypervisor.qemu]\ndefault_memory = 0\ndefault_bridges = 0\n")
	got, err := load(path, nil, "")
	if err != nil || got.Hypervisor.MemoryMiB != 2048 || got.Hypervisor.Bridges != 1 {
		t.Errorf("%+v, %v", got.Hypervisor, err)
	}
	path = write(t, t.TempDir(), "configuration.toml", "[hypervisor.qemu]\ndefault_bridges = 9\n")
	if got, err := load(path, nil, ""); err != nil || got.Hypervisor.Bridges != 5 {
		t.Errorf("%d bridges, %v", got.Hypervisor.Bridges, err)
	}
}

func TestAMistakeInADropInIsFoundThere(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir, "configuration.toml", "[hypervisor.qemu]\ndefault_memory = 512\n")
	dropIn := write(t, dir, "config.d/10.toml", "# a comment\n\n[hypervisor.qemu]\ndefault_memory = 6\n")
	write(t, dir, "config.d/README", "not read")
	if _, err := load(file, nil, ""); err == nil || !strings.Contains(err.Error(), dropIn+", line 4: default_memory = 6") {
		t.Errorf("error %v", err)
	}
	write(t, dir, "config.d/20.toml", "[hypervisor.qemu]\ndefault_memory = 600\n")
	got, err := load(file, nil, "")
	if err != nil || got.Hypervisor.MemoryMiB != 600 || len(got.Notices) != 1 || !strings.Contains(got.Notices[0], "README") {
		t.Errorf("%d MiB, %q, %v", got.Hypervisor.MemoryMiB, got.Notices, err)
	}
}

func TestADropInThatIsNoFileIsNamedAndNotWaitedFor(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"a folder":       func(path string) error { return os.Mkdir(path, 0o755) },
		"a fifo":         func(path string) error { return unix.Mkfifo(path, 0o600) },
		"a link to it":   func(path string) error { return os.Symlink(path, path) },
		"a link nowhere": func(path string) error { return os.Symlink("/nowhere", path) },
		"a device":       func(path string) error { return os.Symlink("/dev/zero", path) },
		"a socket":       func(path string) error { return unix.Mknod(path, unix.S_IFSOCK|0o600, 0) },
		"a file too huge": func(path string) error {
			return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, maxFileBytes+1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := write(t, dir, "configuration.toml", "")
			path := filepath.Join(dir, "config.d", "10.toml")
			if err := errors.Join(os.Mkdir(filepath.Dir(path), 0o755), make(path)); err != nil {
				t.Fatal(err)
			}
			if _, err := load(file, nil, ""); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v; want one that names %s", err, path)
			}
		})
	}
	loop := filepath.Join(t.TempDir(), "loop.toml")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	for _, defaults := range [][]string{nil, {loop}} {
		path := loop
		if defaults != nil {
			path = ""
		}
		if _, err := load(path, defaults, ""); err == nil || !strings.Contains(err.Error(), loop) {
			t.Errorf("error %v", err)
		}
	}
}
