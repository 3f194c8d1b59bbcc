package check

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/katadirect/katadirect/pkg/runtime/config"
)

const crioAdvice = `write %s:
  [crio.runtime.runtimes.kata]
    runtime_path = "/usr/local/bin/containerd-shim-katadirect-v2"
    runtime_type = "vm"
    runtime_root = "/run/vc"
    privileged_without_host_devices = true`

func crioIsThere(o Options) bool {
	_, err := os.Stat(o.CRIODir)
	return err == nil
}

// crioRuntimes are CRI-O's runtimes that are our shim, by name, with their settings.
func crioRuntimes(o Options) (map[string]map[string]any, error) {
	settings := map[string]any{}
	files, _ := filepath.Glob(filepath.Join(o.CRIODir, "crio.conf.d", "*")) // in name order; the pattern is a good one
	for _, file := range append([]string{filepath.Join(o.CRIODir, "crio.conf")}, files...) {
		text, err := os.ReadFile(file)
		if os.IsNotExist(err) {
			continue
		}
		more := map[string]any{}
		if err == nil {
			err = toml.Unmarshal(text, &more)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		merge(settings, more)
	}
	ours := make(map[string]map[string]any)
	runtimes := table(settings, "crio", "runtime", "runtimes")
	for name := range runtimes {
		runtime := table(runtimes, name)
		path, _ := runtime["runtime_path"].(string)
		if strings.HasPrefix(filepath.Base(path), "containerd-shim-kata") {
			ours[name] = runtime
		}
	}
	return ours, nil
}

// crioConfigPath is the configuration.toml that CRI-O's first runtime of ours names.
func crioConfigPath(o Options) string {
	runtimes, err := crioRuntimes(o)
	if err != nil {
		return "" // checkCRIO says so
	}
	for _, name := range slices.Sorted(maps.Keys(runtimes)) {
		if path, _ := runtimes[name]["runtime_config_path"].(string); path != "" {
			return path
		}
	}
	return ""
}

// checkCRIO looks for a runtime of CRI-O that uses our shim. A host without CRI-O has none.
func checkCRIO(_ context.Context, o Options, _ config.Config) []Finding {
	const name = "cri-o"
	if !crioIsThere(o) {
		return nil
	}
	runtimes, err := crioRuntimes(o)
	if err != nil {
		return []Finding{failure(name, "correct the file; CRI-O will not start with it either", "%v", err)}
	}
	var findings []Finding
	for _, runtime := range slices.Sorted(maps.Keys(runtimes)) {
		path, _ := runtimes[runtime]["runtime_path"].(string)
		findings = append(findings, checkCRIORuntime(runtime, path, runtimes[runtime])...)
	}
	if len(findings) == 0 {
		dropIn := filepath.Join(o.CRIODir, "crio.conf.d", "50-katadirect.conf")
		return []Finding{warning(name, fmt.Sprintf(crioAdvice, dropIn), "%s names no runtime that is our shim", o.CRIODir)}
	}
	return findings
}

func checkCRIORuntime(runtime, path string, settings map[string]any) []Finding {
	const name = "cri-o"
	if typ, _ := settings["runtime_type"].(string); typ != "vm" {
		return []Finding{failure(name, `set runtime_type = "vm"`, "the runtime %q has the type %q, and CRI-O would call the shim as it calls runc", runtime, typ)}
	}
	if err := executable(path); err != nil {
		return []Finding{failure(name, "install the shim (bin/containerd-shim-katadirect-v2 of the build) there", "the runtime %q: %v", runtime, err)}
	}
	findings := []Finding{ok(name, "the runtime %q uses %s", runtime, path)}
	if file, _ := settings["runtime_config_path"].(string); file != "" {
		if _, err := config.Load(file); err != nil {
			findings = append(findings, failure(name, "correct the file: every pod of the runtime will fail with it", "the runtime %q: %v", runtime, err))
		}
	}
	if privileged, _ := settings["privileged_without_host_devices"].(bool); !privileged {
		findings = append(findings, warning(name, "set privileged_without_host_devices = true for the runtime",
			"the runtime %q hands all of the host's devices to privileged containers, which cannot have them in a machine", runtime))
	}
	return findings
}
