package criconf

import "fmt"

// CRIO is the drop-in file for CRI-O.
func CRIO(h Handler) (string, error) {
	if err := h.Check(); err != nil {
		return "", err
	}
	text := fmt.Sprintf(`%s

[crio.runtime.runtimes.%s]
runtime_type = "vm"
runtime_path = %q
runtime_root = "/run/vc"
runtime_config_path = %q
privileged_without_host_devices = true
allowed_annotations = ["io.katacontainers.config.hypervisor.default_memory", "io.katacontainers.config.hypervisor.default_vcpus"]
`, Mine, h.Name, h.Shim, h.ConfigPath)
	return text, onlyAdds("", text, []string{"crio", "runtime", "runtimes", h.Name}, "")
}

// CRIOFree refuses a handler that one of CRI-O's other files has already, and files that are no TOML.
func CRIOFree(h Handler, files map[string]string) error {
	for file, text := range files {
		settings, err := parseTOML(text)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		there, err := lookUp(settings, "crio", "runtime", "runtimes", h.Name)
		if err == nil && there != nil {
			err = refuse("it has a runtime %q already, which is not of this program's making; remove it, or choose another name with --handler", h.Name)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	return nil
}
