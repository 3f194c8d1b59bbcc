package nodeinstall_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/katadirect/katadirect/internal/nodeinstall"
)

const (
	shim   = "opt/katadirect/current/bin/containerd-shim-katadirect-v2"
	dropIn = "etc/containerd/conf.d/50-katadirect.toml"
)

func dryRun(o *nodeinstall.Options) { o.DryRun = true }

// impatient waits no longer than it takes to see that the runtime is down, or up again on a busy machine.
func impatient(o *nodeinstall.Options)  { o.WaitTimeout = 10 * time.Second }
func leaveInUse(o *nodeinstall.Options) { o.LeaveInUse = true }
func version(v string) func(*nodeinstall.Options) {
	return func(o *nodeinstall.Options) { o.Version = v }
}

func (w *world) uninstall(t *testing.T, change ...func(*nodeinstall.Options)) (nodeinstall.Report, error) {
	t.Helper()
	o := w.options()
	for _, c := range change {
		c(&o)
	}
	return nodeinstall.Uninstall(t.Context(), o)
}

func TestInstallAndUninstallLeaveTheHostAsItWas(t *testing.T) {
	for name, config := range map[string]string{
		"version 2": config2, "version 3": config3, "none": "", "CRLF": strings.ReplaceAll(config2, "\n", "\r\n"),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, config)
			before := w.tree(t)
			w.mustInstall(t)
			if !w.runtime.has("katadirect") {
				t.Fatal("the runtime does not have the handler")
			}
			for _, place := range []string{shim, "usr/local/bin/katadirect", "opt/katadirect/current/configuration.toml"} {
				// Links of the host are absolute, so they are followed by hand here.
				if _, err := os.Lstat(filepath.Join(w.host, place)); err != nil {
					t.Error(err)
				}
			}
			if config == config2 && w.read(t, mainFile+".katadirect-backup") != config2 {
				t.Error("the backup is not what was there")
			}
			s, err := nodeinstall.Look(t.Context(), w.options())
			if err != nil || !s.Ready() || s.Absent() {
				t.Errorf("status %+v, %v", s, err)
			}
			if _, err := w.uninstall(t); err != nil {
				t.Fatal(err)
			}
			w.isAsBefore(t, before)
			if w.runtime.has("katadirect") {
				t.Error("the runtime still has the handler")
			}
			if s, err := nodeinstall.Look(t.Context(), w.options()); err != nil || !s.Absent() || s.Ready() {
				t.Errorf("status %+v, %v", s, err)
			}
			if r, err := w.uninstall(t); err != nil || slices.ContainsFunc(r.Changes, func(c nodeinstall.Change) bool { return c.Action == "restart" }) {
				t.Errorf("a second uninstall: %+v, %v", r, err)
			}
		})
	}
}

func TestASecondInstallChangesAndRestartsNothing(t *testing.T) {
	w := newWorld(t, config3)
	w.mustInstall(t)
	before, restarts := w.tree(t), w.runtime.restarts()
	if r := w.mustInstall(t); len(r.Changes) != 0 || w.runtime.restarts() != restarts {
		t.Errorf("changed %+v, %d restarts more", r.Changes, w.runtime.restarts()-restarts)
	}
	w.isAsBefore(t, before)
}

func TestADryRunSaysWhatWouldChangeAndChangesNothing(t *testing.T) {
	for _, config := range []string{config2, config3} {
		w := newWorld(t, config)
		before := w.tree(t)
		planned, err := w.install(t, dryRun)
		if err != nil {
			t.Fatal(err)
		}
		w.isAsBefore(t, before)
		made := w.mustInstall(t)
		if !slices.EqualFunc(planned.Changes, made.Changes, same) {
			t.Errorf("planned\n%s\nmade\n%s", list(planned), list(made))
		}
		if !strings.Contains(list(planned), "+[plugins.") {
			t.Errorf("no diff in\n%s", list(planned))
		}
		before = w.tree(t)
		planned, err = w.uninstall(t, dryRun)
		if err != nil {
			t.Fatal(err)
		}
		w.isAsBefore(t, before)
		if taken, err := w.uninstall(t); err != nil || !slices.EqualFunc(planned.Changes, taken.Changes, same) {
			t.Errorf("planned\n%s\ntaken back (%v)\n%s", list(planned), err, list(taken))
		}
	}
}

func same(a, b nodeinstall.Change) bool {
	return a.Action == b.Action && a.Path == b.Path && a.Diff == b.Diff
}

func list(r nodeinstall.Report) string {
	var out strings.Builder
	for _, c := range r.Changes {
		out.WriteString(c.Action + " " + c.Path + "\n" + c.Diff)
	}
	return out.String()
}

func TestAnUpgradeTakesEffectWithoutARestartAndGoesBack(t *testing.T) {
	w := newWorld(t, config3)
	first := w.mustInstall(t)
	restarts := w.runtime.restarts()
	w.write(t, "payload/guest/vmlinux", "a newer kernel", 0o644)
	second := w.mustInstall(t, version("v2"))
	if first.Version == second.Version || w.runtime.restarts() != restarts {
		t.Fatalf("versions %s and %s, %d restarts more", first.Version, second.Version, w.runtime.restarts()-restarts)
	}
	if got := w.read(t, "opt/katadirect/current/guest/vmlinux"); got != "a newer kernel" {
		t.Errorf("new pods boot %q", got)
	}
	if got := w.read(t, "opt/katadirect/versions/"+first.Version+"/guest/vmlinux"); got != "vmlinux" {
		t.Errorf("the old version boots %q", got)
	}
	if !strings.Contains(w.read(t, "opt/katadirect/current/configuration.toml"), "versions/"+second.Version+"/guest/vmlinux") {
		t.Error("the configuration does not name the guest of its version")
	}
	w.write(t, "payload/guest/vmlinux", "vmlinux", 0o644)
	if back := w.mustInstall(t); back.Version != first.Version || w.read(t, "opt/katadirect/current/guest/vmlinux") != "vmlinux" {
		t.Errorf("back to %s", back.Version)
	}
	w.write(t, "payload/guest/vmlinux", "the newest", 0o644)
	third := w.mustInstall(t, version("v3"))
	entries, err := os.ReadDir(filepath.Join(w.host, "opt/katadirect/versions"))
	if err != nil || len(entries) != 2 {
		t.Errorf("%v, %v; want %s and %s", entries, err, first.Version, third.Version)
	}
}

func TestAVersionThatWasDamagedIsMended(t *testing.T) {
	w := newWorld(t, config3)
	r := w.mustInstall(t)
	place := filepath.Join(w.host, "opt/katadirect/versions", r.Version, "guest/initrd")
	if err := os.WriteFile(place, []byte("inItrd"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.mustInstall(t)
	if text, err := os.ReadFile(place); err != nil || string(text) != "initrd" {
		t.Errorf("%q, %v", text, err)
	}
}

// start runs the installed shim, or what stands for it here, as a pod would.
func (w *world) start(t *testing.T) *exec.Cmd {
	t.Helper()
	program := filepath.Join(w.host, shim)
	cmd := exec.Command(program, "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

func TestWhatRunningPodsNeedStays(t *testing.T) {
	w := newWorld(t, config3)
	before := w.tree(t)
	first := w.mustInstall(t)
	pod := w.start(t)
	for i := range 3 {
		w.write(t, "payload/guest/initrd", strings.Repeat("x", i+1), 0o644)
		r := w.mustInstall(t)
		if i == 2 && (len(r.Left) != 1 || r.Left[0].Key != first.Version) {
			t.Errorf("left %+v", r.Left)
		}
	}
	installed := w.tree(t)
	if _, err := w.uninstall(t); !errors.Is(err, nodeinstall.ErrInUse) {
		t.Fatalf("uninstalled under a pod: %v", err)
	}
	w.isAsBefore(t, installed)
	r, err := w.uninstall(t, leaveInUse)
	if !errors.Is(err, nodeinstall.ErrInUse) || len(r.Left) != 2 || len(r.Left[0].UsedBy)+len(r.Left[1].UsedBy) != 1 {
		t.Fatalf("left %+v, %v; want the pod's version and the current one", r.Left, err)
	}
	if !w.runtime.has("katadirect") {
		t.Error("the handler is gone, and with it the exec of the pods that run")
	}
	if _, err := os.Stat(filepath.Join(w.host, "opt/katadirect/versions", first.Version, "guest/vmlinux")); err != nil {
		t.Error(err)
	}
	if err := errors.Join(pod.Process.Kill()); err != nil {
		t.Fatal(err)
	}
	_ = pod.Wait()
	if r, err := w.uninstall(t); err != nil || len(r.Left) != 0 {
		t.Fatalf("left %+v, %v", r.Left, err)
	}
	w.isAsBefore(t, before)
}

func TestARuntimeThatDoesNotComeUpGetsItsOldConfigurationBack(t *testing.T) {
	for _, config := range []string{config2, config3, ""} {
		w := newWorld(t, config)
		w.runtime.breaks = "katadirect"
		_, err := w.install(t, impatient)
		if !errors.Is(err, nodeinstall.ErrTakenBack) {
			t.Fatal(err)
		}
		if config != "" && w.read(t, mainFile) != config {
			t.Errorf("configuration is now %q", w.read(t, mainFile))
		}
		if _, err := os.Stat(filepath.Join(w.host, dropIn)); err == nil {
			t.Error("the drop-in is still there")
		}
		if !w.runtime.has("runc") || w.runtime.has("katadirect") || w.runtime.answer() != nil {
			t.Error("the runtime did not come up again with its old configuration")
		}
		w.runtime.breaks = ""
		w.mustInstall(t)
		if !w.runtime.has("katadirect") {
			t.Error("it is not installed once the reason is gone")
		}
	}
}

func TestARestartThatFailsIsTakenBackToo(t *testing.T) {
	w := newWorld(t, config3)
	_, err := w.install(t, func(o *nodeinstall.Options) { o.Restart = &failing{times: 1, then: o.Restart} })
	if !errors.Is(err, nodeinstall.ErrTakenBack) || w.read(t, mainFile) != config3 {
		t.Errorf("%v, configuration %q", err, w.read(t, mainFile))
	}
	_, err = w.install(t, func(o *nodeinstall.Options) { o.Restart = &failing{times: 9, then: o.Restart} })
	if !errors.Is(err, nodeinstall.ErrTakenBack) || !strings.Contains(err.Error(), "NOT come up") {
		t.Errorf("%v", err)
	}
	w.mustInstall(t) // the note that a restart is due is still there
	if !w.runtime.has("katadirect") {
		t.Error("the runtime does not have the handler")
	}
}

func TestARestartThatWasMissedIsMadeUpFor(t *testing.T) {
	w := newWorld(t, config3)
	w.mustInstall(t)
	w.runtime.mu.Lock()
	delete(w.runtime.handlers, "katadirect") // as if it had started before the file was there
	w.runtime.mu.Unlock()
	w.mustInstall(t)
	if !w.runtime.has("katadirect") {
		t.Error("it was not restarted")
	}
}

func TestRefusalsChangeNothing(t *testing.T) {
	for name, prepare := range map[string]func(*world, *nodeinstall.Options){
		"no QEMU":      func(w *world, _ *nodeinstall.Options) { os.Remove(filepath.Join(w.host, "usr/bin/qemu-system-x86_64")) },
		"no virtiofsd": func(w *world, _ *nodeinstall.Options) { os.Remove(filepath.Join(w.host, "usr/lib/qemu/virtiofsd")) },
		"broken": func(w *world, _ *nodeinstall.Options) {
			os.WriteFile(filepath.Join(w.host, mainFile), []byte("[x"), 0o644)
		},
		"a folder": func(w *world, o *nodeinstall.Options) { o.Config = "/etc" },
		"foreign drop-in": func(w *world, _ *nodeinstall.Options) {
			os.MkdirAll(filepath.Join(w.host, filepath.Dir(dropIn)), 0o755)
			os.WriteFile(filepath.Join(w.host, dropIn), []byte("version = 3\n"), 0o644)
		},
		"taken":           func(_ *world, o *nodeinstall.Options) { o.Handler = "taken" },
		"no socket":       func(w *world, _ *nodeinstall.Options) { os.Remove(filepath.Join(w.host, socket)) },
		"it does not run": func(_ *world, o *nodeinstall.Options) { o.Runtime, o.Socket = nodeinstall.Containerd, "/run/none.sock" },
		"two runtimes": func(w *world, _ *nodeinstall.Options) {
			os.MkdirAll(filepath.Join(w.host, "run/crio/crio.sock"), 0o755)
		},
		"runtime unknown":    func(_ *world, o *nodeinstall.Options) { o.Runtime = "docker" },
		"no payload":         func(_ *world, o *nodeinstall.Options) { o.BinDir = "/no/such/folder" },
		"bad handler":        func(_ *world, o *nodeinstall.Options) { o.Handler = "Kata\"" },
		"prefix is the root": func(_ *world, o *nodeinstall.Options) { o.Prefix = "/" },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, config3+"[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.taken]\n  runtime_type = \"x\"\n")
			o := w.options()
			prepare(w, &o)
			before := w.tree(t)
			r, err := nodeinstall.Install(t.Context(), o)
			if err == nil || r.Error == "" {
				t.Fatalf("installed: %+v", r)
			}
			w.isAsBefore(t, before)
			if w.runtime.restarts() != 0 {
				t.Error("the runtime was restarted")
			}
		})
	}
}

func TestAConfigurationThatIsALinkStaysOne(t *testing.T) {
	w := newWorld(t, "")
	w.write(t, "host/data/real.toml", config2, 0o600)
	w.write(t, "host/etc/containerd/x", "", 0o644)
	if err := os.Symlink("/data/real.toml", filepath.Join(w.host, mainFile)); err != nil {
		t.Fatal(err)
	}
	before := w.tree(t)
	// The stand-in does not follow the host's links, so it never sees the handler; that is not what is tried here.
	if _, err := w.install(t, impatient); !errors.Is(err, nodeinstall.ErrTakenBack) {
		t.Fatal(err)
	}
	if target, err := os.Readlink(filepath.Join(w.host, mainFile)); err != nil || target != "/data/real.toml" {
		t.Errorf("%q, %v", target, err)
	}
	if got := w.tree(t)["/data/real.toml"]; got != before["/data/real.toml"] {
		t.Errorf("the file behind the link: %q", got)
	}
	if backup := w.read(t, "data/real.toml.katadirect-backup"); backup != config2 {
		t.Errorf("backup %q", backup)
	}
}

func TestTheToolOfSomebodyElseStays(t *testing.T) {
	w := newWorld(t, config3)
	w.write(t, "host/usr/local/bin/katadirect", "mine", 0o755)
	r := w.mustInstall(t)
	if w.read(t, "usr/local/bin/katadirect") != "mine" || len(r.Warnings) == 0 {
		t.Errorf("warnings %q", r.Warnings)
	}
	if _, err := w.uninstall(t); err != nil || w.read(t, "usr/local/bin/katadirect") != "mine" {
		t.Error(err)
	}
}

func TestTheAdministratorsSettingsStay(t *testing.T) {
	w := newWorld(t, config3)
	w.mustInstall(t)
	w.write(t, "host/etc/katadirect/config.d/10-memory.toml", "[hypervisor.qemu]\ndefault_memory = 512\n", 0o644)
	if _, err := w.uninstall(t); err != nil {
		t.Fatal(err)
	}
	if w.read(t, "etc/katadirect/config.d/10-memory.toml") == "" {
		t.Error("gone")
	}
}

func TestTwoInstallersTakeTurns(t *testing.T) {
	w := newWorld(t, config3)
	results := make(chan error, 4)
	for range cap(results) {
		go func() {
			_, err := nodeinstall.Install(t.Context(), w.options())
			results <- err
		}()
	}
	for range cap(results) {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if w.runtime.restarts() != 1 || !w.runtime.has("katadirect") {
		t.Errorf("%d restarts", w.runtime.restarts())
	}
}
