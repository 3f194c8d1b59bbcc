package check

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

const runtimeAdvice = `add a runtime to %s and restart containerd:
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata]
    runtime_type = "io.containerd.katadirect.v2"
    pod_annotations = ["io.katacontainers.*"]
    privileged_without_host_devices = true
(a new file begins with version = 2; containerd 2.x: version = 3 and plugins."io.containerd.cri.v1.runtime")`

// criPlugins are the names of the CRI plugin in containerd's configuration, of versions 3, 2 and 1.
var criPlugins = []string{"io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "cri"}

// runtimeEntry is a runtime of containerd that runs pods in machines.
type runtimeEntry struct {
	name       string
	typ        string
	path       string // runtime_path: the shim itself
	configPath string // options.ConfigPath
	privileged bool   // privileged_without_host_devices
}

// checkContainerd looks for a runtime that uses our shim, and for the shim. It returns the configuration.toml that
// the runtime names.
func checkContainerd(o Options) (findings []Finding, configPath string) {
	const name = "containerd"
	advice := fmt.Sprintf(runtimeAdvice, o.ContainerdConfig)
	settings, err := loadContainerd(o.ContainerdConfig, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return []Finding{failure(name, advice, "there is no %s, so containerd does not know the runtime", o.ContainerdConfig)}, ""
	}
	if err != nil {
		return []Finding{failure(name, "correct the file; containerd will not start with it either", "%v", err)}, ""
	}
	runtimes := runtimesIn(settings)
	if len(runtimes) == 0 {
		return []Finding{failure(name, advice, "%s names no runtime of type io.containerd.katadirect.v2 or io.containerd.kata.v2", o.ContainerdConfig)}, ""
	}
	for _, r := range runtimes {
		findings = append(findings, r.check(o)...)
	}
	return findings, runtimes[0].configPath
}

func (r runtimeEntry) check(o Options) []Finding {
	const name = "containerd"
	shim, err := r.findShim(o.ShimDirs)
	if err != nil {
		return []Finding{failure(name, "install the shim (bin/containerd-shim-katadirect-v2 of the build) in /usr/local/bin",
			"the runtime %q has type %s, and %v", r.name, r.typ, err)}
	}
	findings := []Finding{ok(name, "the runtime %q uses %s", r.name, shim)}
	if !r.privileged {
		findings = append(findings, warning(name, "set privileged_without_host_devices = true for the runtime",
			"the runtime %q hands all of the host's devices to privileged containers, which cannot have them in a machine", r.name))
	}
	return findings
}

// findShim looks for the shim as containerd does: containerd-shim-NAME-VERSION for the type io.containerd.NAME.VERSION.
func (r runtimeEntry) findShim(dirs []string) (string, error) {
	places := []string{r.path}
	if r.path == "" {
		parts := strings.Split(r.typ, ".")
		program := "containerd-shim-" + strings.Join(parts[len(parts)-2:], "-")
		places = nil
		for _, dir := range dirs {
			places = append(places, filepath.Join(dir, program))
		}
	}
	for _, place := range places {
		if executable(place) == nil {
			return place, nil
		}
	}
	return "", fmt.Errorf("its shim is not there: %s", strings.Join(places, ", "))
}

// shimDirs are the folders of the path and those that containerd's own service usually has in its path.
func shimDirs(path string) []string {
	dirs := filepath.SplitList(path)
	for _, usual := range []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/opt/kata/bin"} {
		if !slices.Contains(dirs, usual) {
			dirs = append(dirs, usual)
		}
	}
	return dirs
}

// maxImports bounds files that import each other.
const maxImports = 8

// loadContainerd reads a configuration and what it imports; the importing file wins, as in containerd.
func loadContainerd(path string, depth int) (map[string]any, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	settings := map[string]any{}
	if err := toml.Unmarshal(text, &settings); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	imports, _ := settings["imports"].([]any)
	if depth == maxImports {
		return nil, fmt.Errorf("%s: files import each other more than %d times", path, maxImports)
	}
	imported := map[string]any{}
	for _, pattern := range imports {
		pattern := fmt.Sprint(pattern)
		if !filepath.IsAbs(pattern) {
			pattern = filepath.Join(filepath.Dir(path), pattern)
		}
		files, err := filepath.Glob(pattern)
		if err != nil {
			return nil, fmt.Errorf("%s: imports %q: %w", path, pattern, err)
		}
		for _, file := range files {
			more, err := loadContainerd(file, depth+1)
			if err != nil {
				return nil, err
			}
			merge(imported, more)
		}
	}
	merge(imported, settings)
	return imported, nil
}

// merge puts what over has over into. Tables are merged, everything else is replaced.
func merge(into, over map[string]any) {
	for key, value := range over {
		table, isTable := value.(map[string]any)
		old, wasTable := into[key].(map[string]any)
		if isTable && wasTable {
			merge(old, table)
			continue
		}
		into[key] = value
	}
}

// runtimesIn returns the runtimes with our shim's type or Kata's, sorted by name.
func runtimesIn(settings map[string]any) []runtimeEntry {
	var found []runtimeEntry
	for _, plugin := range criPlugins {
		runtimes := table(settings, "plugins", plugin, "containerd", "runtimes")
		for _, name := range slices.Sorted(maps.Keys(runtimes)) {
			settings := table(runtimes, name)
			typ, _ := settings["runtime_type"].(string)
			if !strings.HasPrefix(typ, "io.containerd.katadirect.") && !strings.HasPrefix(typ, "io.containerd.kata.") {
				continue
			}
			path, _ := settings["runtime_path"].(string)
			privileged, _ := settings["privileged_without_host_devices"].(bool)
			configPath, _ := table(settings, "options")["ConfigPath"].(string)
			found = append(found, runtimeEntry{name, typ, path, configPath, privileged})
		}
	}
	return found
}

// table walks into nested tables and returns nil where there is none.
func table(settings map[string]any, path ...string) map[string]any {
	for _, key := range path {
		settings, _ = settings[key].(map[string]any)
	}
	return settings
}
