package check

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/katadirect/katadirect/internal/accel"
	"github.com/katadirect/katadirect/internal/guestimage"
	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/config"
)

// testHost is a host on which everything is as it should be, until a test breaks something.
type testHost struct {
	t       *testing.T
	dir     string
	options Options
}

func newTestHost(t *testing.T) *testHost {
	h := &testHost{t: t, dir: t.TempDir()}
	h.options = Options{
		ContainerdConfig: h.path("containerd.toml"),
		ShimDirs:         []string{h.path("bin")},
		RecordRoot:       h.path("records"),
		Agent:            h.path("agent"),
		VhostVsock:       h.path("vhost-vsock"),
		TunDevice:        h.path("tun"),
		CRIODir:          h.path("crio"),
		CgroupRoot:       h.path("cgroup"),
		KernelRelease:    "6.1.0-13-amd64",
		Accel: func(context.Context, config.Config) (accel.Result, error) {
			return accel.Result{Accel: accel.KVM, Reason: "a trial guest answered"}, nil
		},
		patience: time.Minute, // the stand-ins answer, however busy the machine is
	}
	h.script("bin/qemu", "echo 'QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)'")
	h.script("bin/virtiofsd", "echo 'virtiofsd version 7.2.22'")
	h.script("bin/containerd-shim-katadirect-v2", "exit 1")
	h.write("agent", "the agent")
	h.write("vhost-vsock", "")
	h.write("tun", "")
	h.write("cgroup/cgroup.controllers", "cpu memory")
	h.script("bin/containerd", "echo containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1")
	h.image("the agent")
	h.kata("")
	h.containerd(`runtime_type = "io.containerd.katadirect.v2"
privileged_without_host_devices = true`)
	if err := os.Mkdir(h.options.RecordRoot, 0o700); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *testHost) path(name string) string { return filepath.Join(h.dir, name) }

func (h *testHost) write(name, text string) {
	h.t.Helper()
	if err := os.MkdirAll(filepath.Dir(h.path(name)), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(h.path(name), []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

func (h *testHost) script(name, text string) {
	h.write(name, "#!/bin/sh\n"+text+"\n")
	if err := os.Chmod(h.path(name), 0o755); err != nil {
		h.t.Fatal(err)
	}
}

func (h *testHost) rewrite(name, from, to string) {
	h.t.Helper()
	text, err := os.ReadFile(h.path(name))
	if err != nil || !strings.Contains(string(text), from) {
		h.t.Fatalf("%s has no %q, %v", name, from, err)
	}
	h.write(name, strings.ReplaceAll(string(text), from, to))
}

func (h *testHost) append(name, text string) {
	h.t.Helper()
	before, err := os.ReadFile(h.path(name))
	if err != nil {
		h.t.Fatal(err)
	}
	h.write(name, string(before)+text)
}

// crio writes CRI-O's drop-in with our runtime.
func (h *testHost) crio(more string) {
	h.write("crio/crio.conf.d/50-katadirect.conf", fmt.Sprintf(
		"[crio.runtime.runtimes.kata]\nruntime_path = %q\nprivileged_without_host_devices = true\n%s\n", h.path("bin/containerd-shim-katadirect-v2"), more))
}

func (h *testHost) remove(name string) {
	h.t.Helper()
	if err := os.RemoveAll(h.path(name)); err != nil {
		h.t.Fatal(err)
	}
}

// image makes a guest image that holds an agent.
func (h *testHost) image(agent string) {
	sum := sha256.Sum256([]byte(agent))
	manifest, err := json.Marshal(guestimage.Manifest{
		Version: "1", Kernel: "6.1.0-test", Agent: hex.EncodeToString(sum[:]), KernelBytes: 6, InitrdBytes: 6,
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.write("guest/vmlinux", "kernel")
	h.write("guest/initrd", "initrd")
	h.write("guest/image.json", string(manifest))
}

// kata writes configuration.toml with more lines in [hypervisor.qemu].
func (h *testHost) kata(more string) {
	h.write("configuration.toml", fmt.Sprintf("[hypervisor.qemu]\npath = %q\nvirtio_fs_daemon = %q\nkernel = %q\ninitrd = %q\n%s\n",
		h.path("bin/qemu"), h.path("bin/virtiofsd"), h.path("guest/vmlinux"), h.path("guest/initrd"), more))
}

// containerd writes containerd's configuration with one runtime.
func (h *testHost) containerd(runtime string) {
	h.write("containerd.toml", fmt.Sprintf(`version = 2
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata]
%s
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata.options]
ConfigPath = %q
`, runtime, h.path("configuration.toml")))
}

func (h *testHost) run() Report {
	h.t.Helper()
	report, err := Run(h.t.Context(), h.options)
	if err != nil {
		h.t.Fatal(err)
	}
	return report
}

func TestHostOnWhichAllIsWellIsUsable(t *testing.T) {
	report := newTestHost(t).run()
	seen := map[string]bool{}
	for _, f := range report.Findings {
		seen[f.Check] = true
		if f.Severity != OK || f.Message == "" || f.Advice != "" {
			t.Errorf("%+v", f)
		}
	}
	if !report.Usable {
		t.Error("not usable")
	}
	for _, check := range []string{"containerd", "configuration", "qemu", "virtiofsd", "guest image", "accelerator", "agent channel", "records", "kernel", "cgroups", "network"} {
		if !seen[check] {
			t.Errorf("%s was not looked at", check)
		}
	}
}

func TestFindings(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, which check asks for")
	}
	const shim2 = "runtime_type = \"io.containerd.katadirect.v2\"\nprivileged_without_host_devices = true\n"
	tests := map[string]struct {
		arrange  func(h *testHost)
		check    string
		severity Severity
		message  string
	}{
		"no containerd":          {func(h *testHost) { h.remove("containerd.toml") }, "containerd", Error, "there is no"},
		"containerd.toml broken": {func(h *testHost) { h.write("containerd.toml", "version = = 2") }, "containerd", Error, "containerd.toml"},
		"no runtime of ours": {func(h *testHost) { h.containerd(`runtime_type = "io.containerd.runc.v2"`) }, "containerd", Error,
			"names no runtime"},
		"no shim":             {func(h *testHost) { h.remove("bin/containerd-shim-katadirect-v2") }, "containerd", Error, "its shim is not there"},
		"shim no program":     {func(h *testHost) { must(t, os.Chmod(h.path("bin/containerd-shim-katadirect-v2"), 0o644)) }, "containerd", Error, "its shim is not there"},
		"shim in Kata's name": {func(h *testHost) { h.containerd(`runtime_type = "io.containerd.kata.v2"`) }, "containerd", Error, "containerd-shim-kata-v2"},
		"shim by its path": {func(h *testHost) {
			h.script("elsewhere/shim", "exit 1")
			h.containerd(fmt.Sprintf("%sruntime_path = %q", shim2, h.path("elsewhere/shim")))
		}, "containerd", OK, "elsewhere/shim"},
		"privileged with devices": {func(h *testHost) { h.containerd(`runtime_type = "io.containerd.katadirect.v2"`) }, "containerd", Warning,
			"all of the host's devices"},
		"no version": {func(h *testHost) { h.rewrite("containerd.toml", "version = 2", "") }, "containerd", Error,
			"no line version = 2"},
		"version 3 with the name of 2": {func(h *testHost) {
			h.script("bin/containerd", "echo containerd github.com/containerd/containerd/v2 v2.2.0 abc")
			h.rewrite("containerd.toml", "version = 2", "version = 3")
		}, "containerd", Error, "containerd does not look there: the file has version = 3"},
		"version 2 with the name of 3": {func(h *testHost) {
			h.rewrite("containerd.toml", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime")
		},
			"containerd", Error, "containerd does not look there"},
		"version 3": {func(h *testHost) {
			h.script("bin/containerd", "echo containerd github.com/containerd/containerd/v2 v2.2.0 abc")
			h.rewrite("containerd.toml", "version = 2", "version = 3")
			h.rewrite("containerd.toml", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime")
		}, "containerd", OK, "katadirect-v2"},
		"the type is the shim's path": {func(h *testHost) {
			h.rewrite("containerd.toml", `"io.containerd.katadirect.v2"`, fmt.Sprintf("%q", h.path("bin/containerd-shim-katadirect-v2")))
		}, "containerd", OK, "katadirect-v2"},
		"the path of another shim": {func(h *testHost) {
			h.rewrite("containerd.toml", `"io.containerd.katadirect.v2"`, `"/usr/bin/containerd-shim-runc-v2"`)
		}, "containerd", Error, "names no runtime of type"},
		"version 3 for an old containerd": {func(h *testHost) {
			h.rewrite("containerd.toml", "version = 2", "version = 3")
			h.rewrite("containerd.toml", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime")
		}, "containerd", Error, "is 1.6, which does not start with a file of version 3"},
		"version 1 for a new containerd": {func(h *testHost) {
			h.script("bin/containerd", "echo containerd github.com/containerd/containerd/v2 v2.2.0 abc")
			h.rewrite("containerd.toml", "version = 2", "")
			h.rewrite("containerd.toml", "io.containerd.grpc.v1.cri", "cri")
		}, "containerd", Error, "does not start with a file of version 1"},
		"version 1": {func(h *testHost) {
			h.rewrite("containerd.toml", "version = 2", "")
			h.rewrite("containerd.toml", "io.containerd.grpc.v1.cri", "cri")
		}, "containerd", OK, "katadirect-v2"},
		"an old containerd": {func(h *testHost) { h.script("bin/containerd", "echo containerd x v1.4.3") }, "containerd", Warning, "1.4"},
		"options of runc's": {func(h *testHost) { h.append("containerd.toml", "SystemdCgroup = true\n") }, "containerd", Warning, "SystemdCgroup"},
		"CRI-O instead": {func(h *testHost) {
			h.remove("containerd.toml")
			h.crio(fmt.Sprintf("runtime_type = \"vm\"\nruntime_config_path = %q", h.path("configuration.toml")))
		}, "cri-o", OK, "katadirect-v2"},
		"CRI-O without us":         {func(h *testHost) { h.write("crio/crio.conf", "[crio]\n") }, "cri-o", Warning, "no runtime that is our shim"},
		"CRI-O calls it like runc": {func(h *testHost) { h.crio(`runtime_type = "oci"`) }, "cri-o", Error, "as it calls runc"},
		"CRI-O broken":             {func(h *testHost) { h.write("crio/crio.conf.d/50.conf", "[") }, "cri-o", Error, "50.conf"},
		"CRI-O, bad configuration": {func(h *testHost) {
			h.write("bad.toml", "[runtime]\nemptydir_mode = \"x\"\n")
			h.crio(fmt.Sprintf("runtime_type = \"vm\"\nruntime_config_path = %q", h.path("bad.toml")))
		}, "cri-o", Error, "line 2: emptydir_mode"},
		"kernel old":           {func(h *testHost) { h.options.KernelRelease = "5.10.0-8-amd64" }, "kernel", Error, "5.10"},
		"kernel with a suffix": {func(h *testHost) { h.options.KernelRelease = "5.15-rc3" }, "kernel", OK, "5.15"},
		"kernel unknown":       {func(h *testHost) { h.options.KernelRelease = "Plan 9" }, "kernel", Warning, "Plan 9"},
		"cgroups of version 1": {func(h *testHost) { h.remove("cgroup/cgroup.controllers"); h.write("cgroup/memory/x", "") }, "cgroups", OK, "version 1"},
		"no cgroups":           {func(h *testHost) { h.remove("cgroup/cgroup.controllers") }, "cgroups", Error, "there are none"},
		"no tun":               {func(h *testHost) { h.remove("tun") }, "network", Error, "tcfilter"},
		"macvtap":              {func(h *testHost) { h.append("configuration.toml", "[runtime]\ninternetworking_model = \"macvtap\"\n") }, "network", Error, "not supported"},
		"no passt":             {func(h *testHost) { h.append("configuration.toml", "[runtime]\ninternetworking_model = \"passt\"\n") }, "network", Error, "no passt"},
		"passt": {func(h *testHost) {
			h.remove("tun")
			h.script("bin/passt", "echo passt 0.0~git20250503.587980c-2")
			h.append("configuration.toml", "[runtime]\ninternetworking_model = \"passt\"\n")
		}, "network", OK, "bin/passt"},
		"passt of Debian 12": {func(h *testHost) {
			h.script("bin/passt", "echo passt unknown version")
			h.append("configuration.toml", "[runtime]\ninternetworking_model = \"passt\"\n")
		}, "network", Warning, "24 s"},
		"passt that does not run": {func(h *testHost) {
			h.script("bin/passt", "exit 1")
			h.append("configuration.toml", "[runtime]\ninternetworking_model = \"passt\"\n")
		}, "network", Error, "bin/passt --version"},
		"no network": {func(h *testHost) {
			h.remove("tun")
			h.append("configuration.toml", "[runtime]\ninternetworking_model = \"none\"\n")
		}, "network", OK, "none"},
		"debug console":           {func(h *testHost) { h.append("configuration.toml", "[agent.kata]\ndebug_console_enabled = true\n") }, "configuration", Warning, "debug console is on"},
		"bind mounts of nothing":  {func(h *testHost) { h.append("configuration.toml", "[runtime]\nsandbox_bind_mounts = [\"/no/such\"]\n") }, "configuration", Error, "/no/such"},
		"drop-in is a folder":     {func(h *testHost) { must(t, os.MkdirAll(h.path("config.d/10.toml"), 0o755)) }, "configuration", Error, "10.toml"},
		"drop-in with a mistake":  {func(h *testHost) { h.write("config.d/10.toml", "\n[agent.kata]\ndial_timeout = -1\n") }, "configuration", Error, "10.toml, line 3: dial_timeout"},
		"drop-in of another kind": {func(h *testHost) { h.write("config.d/README", "") }, "configuration", Warning, "README"},
		"configuration broken":    {func(h *testHost) { h.kata("default_memory = maybe") }, "configuration", Error, "configuration.toml"},
		"configuration missing":   {func(h *testHost) { h.remove("configuration.toml") }, "configuration", Error, "no such file"},
		"block devices disabled":  {func(h *testHost) { h.kata("disable_block_device_use = true") }, "configuration", Error, "disable_block_device_use"},
		"unknown key":             {func(h *testHost) { h.kata("default_memori = 1") }, "configuration", Warning, "default_memori"},
		"no QEMU":                 {func(h *testHost) { h.remove("bin/qemu") }, "qemu", Error, "bin/qemu"},
		"QEMU fails":              {func(h *testHost) { h.script("bin/qemu", "echo no such library; exit 127") }, "qemu", Error, "no such library"},
		"QEMU is none":            {func(h *testHost) { h.script("bin/qemu", "echo hello") }, "qemu", Error, "is not QEMU"},
		"QEMU old":                {func(h *testHost) { h.script("bin/qemu", "echo QEMU emulator version 5.2.0") }, "qemu", Warning, "5.2"},
		"QEMU new":                {func(h *testHost) { h.script("bin/qemu", "echo QEMU emulator version 10.1.0") }, "qemu", OK, "10.1"},
		"no virtiofsd":            {func(h *testHost) { h.remove("bin/virtiofsd") }, "virtiofsd", Error, "bin/virtiofsd"},
		"no kernel":               {func(h *testHost) { h.remove("guest/vmlinux") }, "guest image", Error, "vmlinux"},
		"no initrd":               {func(h *testHost) { h.remove("guest/initrd") }, "guest image", Error, "initrd"},
		"initrd empty":            {func(h *testHost) { h.write("guest/initrd", "") }, "guest image", Error, "empty"},
		"initrd cut off":          {func(h *testHost) { h.write("guest/initrd", "ini") }, "guest image", Error, "cut off"},
		"image of another maker":  {func(h *testHost) { h.remove("guest/image.json") }, "guest image", Warning, "not made by katadirect"},
		"image with old agent":    {func(h *testHost) { h.image("an older agent") }, "guest image", Warning, "another agent"},
		"KVM does not run": {func(h *testHost) {
			h.options.Accel = func(context.Context, config.Config) (accel.Result, error) {
				return accel.Result{Accel: accel.TCG, Reason: "it failed:\nbadly"}, nil
			}
		}, "accelerator", Warning, "it failed: badly"},
		"KVM unknown": {func(h *testHost) {
			h.options.Accel = func(context.Context, config.Config) (accel.Result, error) {
				return accel.Result{}, errors.New("no folder")
			}
		}, "accelerator", Warning, "no folder"},
		"KVM not tried":     {func(h *testHost) { h.remove("guest/initrd") }, "accelerator", Warning, "was not tried"},
		"no vsock":          {func(h *testHost) { h.remove("vhost-vsock") }, "agent channel", OK, "virtio-serial"},
		"no records":        {func(h *testHost) { h.remove("records") }, "records", OK, "will be made"},
		"records a file":    {func(h *testHost) { h.remove("records"); h.write("records", "") }, "records", Error, "not a folder"},
		"records foreign":   {func(h *testHost) { must(t, os.Chown(h.path("records"), 1000, 0)) }, "records", Error, "user 1000"},
		"records writable":  {func(h *testHost) { must(t, os.Chmod(h.path("records"), 0o770)) }, "records", Error, "written by others"},
		"records readable":  {func(h *testHost) { must(t, os.Chmod(h.path("records"), 0o755)) }, "records", Warning, "read by others"},
		"records with junk": {func(h *testHost) { h.write("records/L3Y=/mountInfo.json", "{") }, "records", Warning, "1 of 1 records"},
		"records of good sort": {func(h *testHost) {
			must(t, directvolume.NewStore(h.path("records")).Add(t.Context(), "/v", directvolume.Record{Device: "/d", FSType: "ext4"}))
		}, "records", OK, "1 in"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h := newTestHost(t)
			test.arrange(h)
			report := h.run()
			if report.Usable != (test.severity != Error) && name != "KVM not tried" {
				t.Errorf("usable: %v", report.Usable)
			}
			for _, f := range report.Findings {
				if f.Check == test.check && f.Severity == test.severity && strings.Contains(f.Message, test.message) {
					if (f.Severity == OK) != (f.Advice == "") {
						t.Errorf("advice %q for %+v", f.Advice, f)
					}
					return
				}
			}
			t.Errorf("no such finding in %+v", report.Findings)
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestContainerdsConfigurationIsReadInAllItsForms(t *testing.T) {
	const runtime = `runtime_type = "io.containerd.katadirect.v2"`
	tests := map[string]map[string]string{
		"version 3": {"containerd.toml": "version = 3\n[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.kata]\n" + runtime},
		"version 1": {"containerd.toml": "[plugins.cri.containerd.runtimes.kata]\n" + runtime},
		"imported": {
			"containerd.toml": "version = 2\nimports = [\"conf.d/*.toml\"]\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"",
			"conf.d/a.toml":   "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.kata]\n" + runtime,
		},
		"imported wins": {
			"containerd.toml": "version = 2\nimports = [\"a.toml\"]\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.kata]\nruntime_type = \"io.containerd.runc.v2\"",
			"a.toml":          "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.kata]\n" + runtime,
		},
	}
	for name, files := range tests {
		t.Run(name, func(t *testing.T) {
			h := newTestHost(t)
			for file, text := range files {
				h.write(file, text)
			}
			if name == "version 3" {
				h.script("bin/containerd", "echo containerd github.com/containerd/containerd/v2 v2.2.0 abc")
			}
			found, _ := checkContainerd(h.options)
			if len(found) != 2 || found[0].Severity != OK || found[1].Severity != Warning {
				t.Errorf("%+v", found)
			}
		})
	}
	t.Run("importing itself", func(t *testing.T) {
		h := newTestHost(t)
		h.write("containerd.toml", `imports = ["containerd.toml"]`)
		if found, _ := checkContainerd(h.options); len(found) != 1 || found[0].Severity != Error {
			t.Errorf("%+v", found)
		}
	})
}

func TestCheckEndsWithItsContext(t *testing.T) {
	h := newTestHost(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("interrupted")
	h.options.Accel = func(context.Context, config.Config) (accel.Result, error) {
		cancel(cause)
		return accel.Result{}, cause
	}
	if report, err := Run(ctx, h.options); !errors.Is(err, cause) {
		t.Fatalf("%+v, %v", report, err)
	}
}
