package nodeinstall_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katadirect/katadirect/internal/nodeinstall"
)

const (
	k3sDir    = "var/lib/rancher/k3s/agent/etc/containerd/"
	k3sMade   = "version = 3\n%s\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\n  runtime_type = \"io.containerd.runc.v2\"\n"
	k3sImport = `imports = ["/var/lib/rancher/k3s/agent/etc/containerd/config-v3.toml.d/*.toml"]`
)

// newK3s is a world whose runtime is k3s', which makes the configuration from a template at its start.
func newK3s(t *testing.T, imports string) *world {
	t.Helper()
	w := newWorld(t, "")
	w.runtime.made = func() string {
		made := strings.Replace(k3sMade, "%s", imports, 1)
		for _, name := range []string{"config-v3.toml.tmpl", "config.toml.tmpl"} {
			if text, err := os.ReadFile(filepath.Join(w.host, k3sDir, name)); err == nil {
				_, own, _ := strings.Cut(string(text), "{{ template \"base\" . }}\n")
				return made + own
			}
		}
		return made
	}
	w.runtime.config = "/" + k3sDir + "config.toml"
	must(t, os.MkdirAll(filepath.Join(w.host, k3sDir), 0o755))
	w.runtime.load()
	return w
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func k3s(o *nodeinstall.Options) { o.Runtime, o.Socket = nodeinstall.K3s, "/"+socket }

func TestK3sGetsADropInOrATemplate(t *testing.T) {
	for name, test := range map[string]struct{ imports, tmpl, where string }{
		"new":                  {k3sImport, "", "config-v3.toml.d/50-katadirect.toml"},
		"old":                  {"", "", "config-v3.toml.tmpl"},
		"old, with a template": {"", "# ours\n{{ template \"base\" . }}\n[debug]\n  level = \"info\"\n", "config-v3.toml.tmpl"},
		"new, with a template": {k3sImport, "{{ template \"base\" . }}\n", "config-v3.toml.d/50-katadirect.toml"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newK3s(t, test.imports)
			if test.tmpl != "" {
				w.write(t, "host/"+k3sDir+"config-v3.toml.tmpl", test.tmpl, 0o600)
			}
			before := w.tree(t)
			w.mustInstall(t, k3s)
			if !w.runtime.has("katadirect") {
				t.Fatal("the runtime does not have the handler")
			}
			if !strings.Contains(w.read(t, k3sDir+test.where), "runtimes.katadirect]") {
				t.Errorf("not in %s", test.where)
			}
			if r := w.mustInstall(t, k3s); len(r.Changes) != 0 {
				t.Errorf("a second install changed %s", list(r))
			}
			if _, err := w.uninstall(t, k3s); err != nil {
				t.Fatal(err)
			}
			w.isAsBefore(t, before)
			if test.tmpl != "" && w.read(t, k3sDir+"config-v3.toml.tmpl") != test.tmpl {
				t.Errorf("the template is now %q", w.read(t, k3sDir+"config-v3.toml.tmpl"))
			}
		})
	}
}

// k3s was upgraded, and imports drop-ins now: the handler moves, and is never there twice.
func TestAnUpgradeOfK3sMovesTheHandler(t *testing.T) {
	w := newK3s(t, "")
	w.mustInstall(t, k3s)
	old := w.runtime.made
	w.runtime.made = func() string { return strings.Replace(old(), "version = 3\n", "version = 3\n"+k3sImport+"\n", 1) }
	w.runtime.load()
	w.mustInstall(t, k3s)
	if _, err := os.Stat(filepath.Join(w.host, k3sDir, "config-v3.toml.tmpl")); err == nil {
		t.Error("the template that was made for the handler is still there")
	}
	if !w.runtime.has("katadirect") || !strings.Contains(w.read(t, k3sDir+"config-v3.toml.d/50-katadirect.toml"), "katadirect") {
		t.Error("the handler is gone")
	}
}

func TestK3sRefusals(t *testing.T) {
	for name, prepare := range map[string]func(*world){
		"not started yet": func(w *world) { os.Remove(filepath.Join(w.host, k3sDir, "config.toml")) },
		"a broken template": func(w *world) {
			os.WriteFile(filepath.Join(w.host, k3sDir, "config-v3.toml.tmpl"), []byte("{{ if }}"), 0o644)
		},
		"the handler is there": func(w *world) {
			os.WriteFile(filepath.Join(w.host, k3sDir, "config-v3.toml.tmpl"), []byte("{{ template \"base\" . }}\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.katadirect]\n"), 0o644)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newK3s(t, "")
			prepare(w)
			before := w.tree(t)
			if _, err := w.install(t, k3s); !errors.Is(err, nodeinstall.ErrRefused) {
				t.Error(err)
			}
			w.isAsBefore(t, before)
		})
	}
}

// CRI-O's own reading of the file cannot be tried here: it does not say which handlers it has, as old ones did not.
func TestCRIOGetsADropIn(t *testing.T) {
	const place = "etc/crio/crio.conf.d/50-katadirect.conf"
	crio := func(o *nodeinstall.Options) { o.Runtime, o.Socket = nodeinstall.CRIO, "/"+socket }
	w := newWorld(t, "")
	w.runtime.silent = true
	w.write(t, "host/etc/crio/crio.conf.d/10-runc.conf", "[crio.runtime.runtimes.runc]\nruntime_type = \"oci\"\n", 0o644)
	before := w.tree(t)
	w.mustInstall(t, crio)
	if !strings.Contains(w.read(t, place), "[crio.runtime.runtimes.katadirect]") || w.runtime.restarts() != 1 {
		t.Errorf("%d restarts, %s", w.runtime.restarts(), w.read(t, place))
	}
	s, err := nodeinstall.Look(t.Context(), func() nodeinstall.Options { o := w.options(); crio(&o); return o }())
	if err != nil || !s.Ready() {
		t.Errorf("%+v, %v", s, err)
	}
	if r := w.mustInstall(t, crio); len(r.Changes) != 0 {
		t.Errorf("a second install changed %s", list(r))
	}
	if _, err := w.uninstall(t, crio); err != nil || w.runtime.restarts() != 2 {
		t.Errorf("%v, %d restarts", err, w.runtime.restarts())
	}
	w.isAsBefore(t, before)
	w.write(t, "host/etc/crio/crio.conf.d/10-runc.conf", "[crio.runtime.runtimes.katadirect]\nruntime_type = \"oci\"\n", 0o644)
	if _, err := w.install(t, crio); !errors.Is(err, nodeinstall.ErrRefused) {
		t.Errorf("a handler of somebody else's: %v", err)
	}
}
