package criconf_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"

	"github.com/katadirect/katadirect/internal/nodeinstall/criconf"
)

var update = flag.Bool("update", false, "write the golden files anew")

const (
	mainPath = "/etc/containerd/config.toml"
	dropIn   = "/etc/containerd/conf.d/50-katadirect.toml"
)

var handler = criconf.Handler{
	Name: "katadirect", Shim: "/opt/katadirect/current/bin/containerd-shim-katadirect-v2",
	ConfigPath: "/opt/katadirect/current/configuration.toml",
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// golden compares a text with a golden file; "" is no file.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		_ = os.Remove(path)
		if got != "" {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	want, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// settings is what a text means.
func settings(t *testing.T, text string) map[string]any {
	t.Helper()
	out := map[string]any{}
	if err := toml.Unmarshal([]byte(text), &out); err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	return out
}

func TestTheHandlerComesToRealConfigurationsAndLeavesThemAsTheyWere(t *testing.T) {
	files, _ := filepath.Glob("testdata/containerd/*/in.toml")
	if len(files) < 15 {
		t.Fatalf("only %d configurations", len(files))
	}
	for _, file := range files {
		dir := filepath.Dir(file)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			text := read(t, file)
			c := criconf.Containerd{MainPath: mainPath, Main: text, DropInPath: dropIn}
			got, err := c.Add(handler)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, filepath.Join(dir, "want.toml"), got.Main)
			golden(t, filepath.Join(dir, "dropin.toml"), got.DropIn)

			effective := got.Main
			if got.DropIn != "" {
				effective = got.DropIn
			}
			if !criconf.HasHandler(effective, handler) {
				t.Errorf("the handler is not seen in\n%s", effective)
			}
			before, after := settings(t, text), settings(t, got.Main)
			for _, key := range []string{"version", "root", "debug", "proxy_plugins", "title"} {
				if diff := cmp.Diff(before[key], after[key]); diff != "" {
					t.Errorf("%s has changed: %s", key, diff)
				}
			}

			c.Main, c.DropIn = got.Main, got.DropIn
			again, err := c.Add(handler)
			if err != nil || again != got {
				t.Errorf("a second time it is another text (%v):\n%s", err, cmp.Diff(got, again))
			}
			other := handler
			other.Name, other.Shim = "kata", "/opt/elsewhere/shim"
			if changed, err := c.Add(other); err != nil || criconf.HasHandler(changed.Main+changed.DropIn, handler) {
				t.Errorf("another name leaves the old one behind (%v)", err)
			}
			back, err := c.Remove()
			if err != nil || back.Main != text || back.DropIn != "" {
				t.Errorf("taking it out again (%v):\n%s", err, cmp.Diff(text, back.Main))
			}
		})
	}
}

func TestANewConfigurationIsMadeAsTheVersionOfContainerdWantsIt(t *testing.T) {
	for major, version := range map[int]string{1: "version = 2", 2: "version = 3", 3: "version = 3"} {
		c := criconf.Containerd{MainPath: mainPath, DropInPath: dropIn, Major: major}
		got, err := c.Add(handler)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(got.Main, version) || !criconf.IsMine([]byte(got.Main)) || (got.DropIn == "") != (major == 1) {
			t.Errorf("containerd %d: %q and %q", major, got.Main, got.DropIn)
		}
		c.Main, c.DropIn = got.Main, got.DropIn
		if back, err := c.Remove(); err != nil || back != (criconf.Result{}) {
			t.Errorf("containerd %d: %q stays (%v)", major, back, err)
		}
		c.Main += "\n[debug]\n  level = \"debug\"\n"
		if back, err := c.Remove(); err != nil || settings(t, back.Main)["debug"] == nil {
			t.Errorf("containerd %d: what somebody has added is gone (%v): %q", major, err, back.Main)
		}
	}
}

func TestWhatIsNotUnderstoodIsRefused(t *testing.T) {
	const cri2 = `version = 2
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.`
	tests := map[string]struct {
		c    criconf.Containerd
		says string
	}{
		"no TOML":             {criconf.Containerd{Main: "version = 2\n[plugins\n"}, "line 2"},
		"a key twice":         {criconf.Containerd{Main: "version = 2\nversion = 2\n"}, "no TOML"},
		"binary":              {criconf.Containerd{Main: "\x00\x01\x02"}, "no TOML"},
		"a mark of order":     {criconf.Containerd{Main: "\ufeffversion = 2\n"}, "no TOML"},
		"version 1":           {criconf.Containerd{Main: "version = 1\n"}, "config migrate"},
		"no version":          {criconf.Containerd{Main: "root = \"/x\"\n"}, "config migrate"},
		"docker's":            {criconf.Containerd{Main: "disabled_plugins = [\"cri\"]\n#version = 2\n"}, "config migrate"},
		"without CRI":         {criconf.Containerd{Main: "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"}, "disabled_plugins"},
		"version 4":           {criconf.Containerd{Main: "version = 4\n"}, "not known"},
		"version as text":     {criconf.Containerd{Main: "version = \"2\"\n"}, "not known"},
		"comments only":       {criconf.Containerd{Main: "# nothing\n", Major: 2}, "comments only"},
		"none, unknown":       {criconf.Containerd{}, "not known"},
		"the handler":         {criconf.Containerd{Main: cri2 + "katadirect]\n"}, "--handler"},
		"quoted":              {criconf.Containerd{Main: cri2 + "'katadirect']\n"}, "--handler"},
		"the handler, 3":      {criconf.Containerd{Main: "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.katadirect]\n"}, "--handler"},
		"imported":            {criconf.Containerd{Main: "version = 2\n", Imported: map[string]string{"/a.toml": cri2 + "katadirect]\n"}, Major: 2}, "/a.toml"},
		"import replaces":     {criconf.Containerd{Main: "version = 2\n", Imported: map[string]string{"/a.toml": cri2 + "nvidia]\n"}, Major: 1}, "leaves aside"},
		"import is broken":    {criconf.Containerd{Main: "version = 2\n", Imported: map[string]string{"/a.toml": "["}, Major: 1}, "/a.toml"},
		"an inline table":     {criconf.Containerd{Main: "version = 2\nplugins = {\"io.containerd.grpc.v1.cri\" = {containerd = {runtimes = {runc = {}}}}}\n"}, "addition"},
		"plugins is no table": {criconf.Containerd{Main: "version = 2\nplugins = 3\n"}, "no table"},
		"imports is text":     {criconf.Containerd{Main: "version = 3\nimports = \"x\"\n"}, "no list"},
		"imports has lists":   {criconf.Containerd{Main: "version = 3\nimports = [[\"x\"]]\n"}, "no string"},
		"a foreign drop-in":   {criconf.Containerd{Main: "version = 3\n", DropIn: "version = 3\n"}, "not made by this program"},
		"half a block":        {criconf.Containerd{Main: "version = 2\n# BEGIN katadirect (added by \"katadirect node install\", taken out by \"katadirect node uninstall\")\n"}, "does not end"},
		"the other half":      {criconf.Containerd{Main: "version = 2\n# END katadirect\n"}, "without the line"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			test.c.MainPath, test.c.DropInPath = mainPath, dropIn
			got, err := test.c.Add(handler)
			if !errors.Is(err, criconf.ErrRefused) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v; want a refusal with %q. It made\n%s", err, test.says, got.Main)
			}
		})
	}
	for _, bad := range []criconf.Handler{
		{Name: "Kata", Shim: "/s", ConfigPath: "/c"}, {Name: "a\"]", Shim: "/s", ConfigPath: "/c"},
		{Name: "kata", Shim: "s", ConfigPath: "/c"}, {Name: "kata", Shim: "/s", ConfigPath: "/c\"\n"},
	} {
		if _, err := (criconf.Containerd{Main: "version = 2\n"}).Add(bad); err == nil {
			t.Errorf("%+v was written", bad)
		}
	}
}

// Somebody edits the file between install and uninstall.
func TestWhatWasWrittenBesideTheHandlerStays(t *testing.T) {
	for _, version := range []string{"2", "3"} {
		c := criconf.Containerd{MainPath: mainPath, Main: "version = " + version + "\nimports = [\"/a.toml\"]", DropInPath: dropIn}
		made, err := c.Add(handler)
		if err != nil {
			t.Fatal(err)
		}
		c.Main = strings.Replace(made.Main, `"/a.toml"`, `"/a.toml", "/b.toml"`, 1) + "\n[debug]\n  level = \"debug\"\n"
		back, err := c.Remove()
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]any{
			"imports": []any{"/a.toml", "/b.toml"}, "debug": map[string]any{"level": "debug"},
			"version": int64(version[0] - '0'),
		}
		if diff := cmp.Diff(want, settings(t, back.Main)); diff != "" {
			t.Errorf("version %s (-want +got):\n%s", version, diff)
		}
	}
}

func TestTheImportIsTakenOutWhereverSomebodyHasPutIt(t *testing.T) {
	const ours = `"/etc/containerd/conf.d/*katadirect.toml"`
	for list, want := range map[string]string{
		`[` + ours + `]`:                    `[]`,
		`["a", ` + ours + `]`:               `["a"]`,
		`["a", ` + ours + `, "b"]`:          `["a", "b"]`,
		"[\n  \"a\",\n  " + ours + ",\n]":   "[\n  \"a\",\n]",
		"[ " + ours + " , # ours\n \"b\" ]": "[ # ours\n \"b\" ]",
	} {
		c := criconf.Containerd{MainPath: mainPath, DropInPath: dropIn, Main: "version = 3\nimports = " + list + "\n"}
		back, err := c.Remove()
		if got := strings.TrimSuffix(strings.TrimPrefix(back.Main, "version = 3\nimports = "), "\n"); err != nil || got != want {
			t.Errorf("%s became %s (%v), want %s", list, got, err, want)
		}
	}
}

func TestAProbeImportsTheDropInByItsTrialName(t *testing.T) {
	c := criconf.Containerd{MainPath: mainPath, Main: "version = 3\n", DropInPath: dropIn}
	made, err := c.Add(handler)
	if err != nil {
		t.Fatal(err)
	}
	text, err := made.Probe("/etc/containerd/trial")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := criconf.Imports(text); err != nil || len(got) != 2 || got[1] != "/etc/containerd/trial" {
		t.Errorf("imports %q, %v", got, err)
	}
}

func TestCRIO(t *testing.T) {
	text, err := criconf.CRIO(handler)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/crio.toml", text)
	if !criconf.IsMine([]byte(text)) {
		t.Error("the file is not known as made here")
	}
	for name, files := range map[string]map[string]string{
		"taken":  {"/etc/crio/crio.conf": "[crio.runtime.runtimes.katadirect]\n"},
		"broken": {"/etc/crio/crio.conf.d/10.conf": "[crio"},
	} {
		if err := criconf.CRIOFree(handler, files); !errors.Is(err, criconf.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := criconf.CRIOFree(handler, map[string]string{"/a": "[crio.runtime.runtimes.runc]\n"}); err != nil {
		t.Error(err)
	}
}

func TestTemplatesOfK3s(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"none":      {"", "testdata/template/none.want"},
		"base":      {"{{ template \"base\" . }}\n", "testdata/template/base.want"},
		"base-open": {"{{ template \"base\" . }}\n\n[debug]\n  level = \"info\"", "testdata/template/base-open.want"},
		"whole":     {"version = 3\nroot = {{ printf \"%q\" .NodeConfig.Containerd.Root }}\n{{ range $k, $v := .ExtraRuntimes }}\n[x.'{{ $k }}']\n{{ end }}\n", "testdata/template/whole.want"},
	} {
		t.Run(name, func(t *testing.T) {
			tmpl := criconf.Template{Path: "/t", Text: test.text, Version: 3}
			made, err := tmpl.Add(handler)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, test.want, made)
			tmpl.Text = made
			if again, err := tmpl.Add(handler); err != nil || again != made {
				t.Errorf("a second time it is another text: %v\n%s", err, again)
			}
			if back, err := tmpl.Remove(); err != nil || back != test.text {
				t.Errorf("taken out (%v): %q, want %q", err, back, test.text)
			}
		})
	}
	for name, tmpl := range map[string]criconf.Template{
		"no template": {Text: "{{ if }}", Version: 3}, "not closed": {Text: "{{ if .X }}\n", Version: 3},
		"taken":      {Text: "{{ template \"base\" . }}\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.'katadirect']\n", Version: 3},
		"no version": {Text: "", Version: 0}, "another version": {Text: "version = 2\n", Version: 3}, "no TOML": {Text: "[", Version: 3},
	} {
		if made, err := tmpl.Add(handler); !errors.Is(err, criconf.ErrRefused) {
			t.Errorf("%s: %v, made %q", name, err, made)
		}
	}
}
