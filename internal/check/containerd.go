package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
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

// criPlugin is the name of the CRI plugin in containerd's configuration, by the version of the file. containerd 1.x knows
// versions 1 and 2, containerd 2.x knows 2 and 3, and none of them sees what stands under another version's name.
var criPlugin = map[int]string{1: "cri", 2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.runtime"}

// runtimeEntry is a runtime of containerd that runs pods in machines.
type runtimeEntry struct {
	name       string
	typ        string
	path       string   // runtime_path: the shim itself
	configPath string   // options.ConfigPath
	privileged bool     // privileged_without_host_devices
	plugin     string   // the name of the CRI plugin under which it stands
	runc       []string // options that only runc has
}

// checkContainerd looks for a runtime that uses our shim, and for the shim. It returns the configuration.toml that
// the runtime names.
func checkContainerd(o Options) (findings []Finding, configPath string) {
	const name = "containerd"
	advice := fmt.Sprintf(runtimeAdvice, o.ContainerdConfig)
	settings, err := loadContainerd(o.ContainerdConfig, 0)
	if errors.Is(err, fs.ErrNotExist) && crioIsThere(o) {
		return nil, "" // the host's runtime is CRI-O
	}
	if errors.Is(err, fs.ErrNotExist) {
		return []Finding{failure(name, advice, "there is no %s, so containerd does not know the runtime", o.ContainerdConfig)}, ""
	}
	if err != nil {
		return []Finding{failure(name, "correct the file; containerd will not start with it either", "%v", err)}, ""
	}
	version := versionIn(settings)
	if problem := checkVersion(o, version); problem != nil {
		findings = append(findings, *problem)
	}
	runtimes, unseen := runtimesIn(settings, version)
	if len(runtimes) == 0 && len(unseen) > 0 {
		return append(findings, unseen[0].notSeen(o.ContainerdConfig, version)), unseen[0].configPath
	}
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
	if len(r.runc) > 0 {
		findings = append(findings, warning(name, "remove them; only ConfigPath, with TypeUrl = \"runtimeoptions.v1.Options\", means something",
			"the runtime %q has options of runc's, which are left aside: %s", r.name, strings.Join(r.runc, " ")))
	}
	if !r.privileged {
		findings = append(findings, warning(name, "set privileged_without_host_devices = true for the runtime",
			"the runtime %q hands all of the host's devices to privileged containers, which cannot have them in a machine", r.name))
	}
	return findings
}

// runcOptions are options of runc's shim that people copy along.
var runcOptions = []string{"BinaryName", "SystemdCgroup", "NoPivotRoot", "NoNewKeyring", "ShimCgroup", "IoUid", "IoGid", "Root", "CriuPath"}

// notSeen is a runtime that containerd does not see where it stands.
func (r runtimeEntry) notSeen(file string, version int) Finding {
	line := fmt.Sprintf("version = %d", version)
	if version == 1 {
		line = "no line version = 2, so it is one of version 1"
	}
	return failure("containerd", fmt.Sprintf("begin the file with version = %d, or move the runtime to plugins.%q", versionOfPlugin(r.plugin), criPlugin[version]),
		"the runtime %q stands under plugins.%q in %s, and containerd does not look there: the file has %s", r.name, r.plugin, file, line)
}

func versionOfPlugin(name string) int {
	for version, plugin := range criPlugin {
		if plugin == name {
			return version
		}
	}
	return 2
}

// versionIn is the version of a file; without one it is 1.
func versionIn(settings map[string]any) int {
	if version, ok := settings["version"].(int64); ok && version > 0 {
		return int(version)
	}
	return 1
}

var containerdVersion = regexp.MustCompile(`v?(\d+)\.(\d+)\.\d+`)

// checkVersion says whether the containerd that is installed takes a file of this version; nil when it does, or when
// there is none to ask.
func checkVersion(o Options, version int) *Finding {
	const name = "containerd"
	program, err := findProgram("containerd", o.ShimDirs)
	if err != nil {
		return nil
	}
	answer, err := o.versionOf(context.Background(), program)
	found := containerdVersion.FindStringSubmatch(answer)
	if err != nil || found == nil {
		problem := warning(name, "see the message", "the version of %s is not known: %q, %v", program, answer, err)
		return &problem
	}
	major, minor := found[1], found[2]
	var problem Finding
	switch {
	case major == "1" && (len(minor) == 1 && minor < "6"):
		problem = warning(name, "upgrade containerd", "%s is %s.%s; versions before 1.6 were never tried", program, major, minor)
	case major == "1" && version > 2:
		problem = failure(name, "begin the file with version = 2, or upgrade containerd",
			"%s is %s.%s, which does not start with a file of version %d", program, major, minor, version)
	case major != "1" && version < 2:
		problem = failure(name, "begin the file with version = 2 or 3",
			"%s is %s.%s, which does not start with a file of version %d", program, major, minor, version)
	default:
		return nil
	}
	return &problem
}

func findProgram(name string, dirs []string) (string, error) {
	for _, dir := range dirs {
		if path := filepath.Join(dir, name); executable(path) == nil {
			return path, nil
		}
	}
	return "", fs.ErrNotExist
}

// findShim looks for the shim as containerd does: containerd-shim-NAME-VERSION for the type io.containerd.NAME.VERSION.
func (r runtimeEntry) findShim(dirs []string) (string, error) {
	places := []string{r.path}
	if filepath.IsAbs(r.typ) {
		places = []string{r.typ}
	} else if r.path == "" {
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

// loadContainerd reads a configuration and what it imports; the imported file wins, as in containerd.
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
			merge(settings, more)
		}
	}
	return settings, nil
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

// runtimesIn returns the runtimes with our shim's type or Kata's, sorted by name: those that containerd sees in a file of
// this version, and those that it does not.
func runtimesIn(settings map[string]any, version int) (seen, unseen []runtimeEntry) {
	for _, plugin := range slices.Sorted(maps.Values(criPlugin)) {
		runtimes := table(settings, "plugins", plugin, "containerd", "runtimes")
		for _, name := range slices.Sorted(maps.Keys(runtimes)) {
			settings := table(runtimes, name)
			typ, _ := settings["runtime_type"].(string)
			if !isOurs(typ) {
				continue
			}
			r := runtimeEntry{name: name, typ: typ, plugin: plugin}
			r.path, _ = settings["runtime_path"].(string)
			r.privileged, _ = settings["privileged_without_host_devices"].(bool)
			options := table(settings, "options")
			r.configPath, _ = options["ConfigPath"].(string)
			for _, option := range slices.Sorted(maps.Keys(options)) {
				if slices.Contains(runcOptions, option) {
					r.runc = append(r.runc, option)
				}
			}
			if plugin == criPlugin[version] {
				seen = append(seen, r)
			} else {
				unseen = append(unseen, r)
			}
		}
	}
	return seen, unseen
}

// isOurs reports whether a runtime's type is our shim's or Kata's: by its name, or by the program's path.
func isOurs(typ string) bool {
	if filepath.IsAbs(typ) {
		typ = "io.containerd." + strings.ReplaceAll(strings.TrimPrefix(filepath.Base(typ), "containerd-shim-"), "-", ".")
	}
	return strings.HasPrefix(typ, "io.containerd.katadirect.") || strings.HasPrefix(typ, "io.containerd.kata.")
}

// table walks into nested tables and returns nil where there is none.
func table(settings map[string]any, path ...string) map[string]any {
	for _, key := range path {
		settings, _ = settings[key].(map[string]any)
	}
	return settings
}
