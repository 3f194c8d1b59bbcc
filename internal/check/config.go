package check

import (
	"github.com/katadirect/katadirect/pkg/runtime/config"
)

// checkConfig reads Kata's configuration as the shim will. With one that cannot be read the later checks look at the
// default's values.
func checkConfig(path string) ([]Finding, config.Config) {
	const name = "configuration"
	c, err := config.Load(path)
	if err != nil {
		return []Finding{failure(name, "correct the file: every pod of the runtime will fail with it", "%v", err)}, config.Default()
	}
	findings := []Finding{}
	if c.Path == "" {
		findings = append(findings, ok(name, "there is no configuration.toml, so the defaults hold"))
	} else {
		findings = append(findings, ok(name, "%s", c.Path))
	}
	if c.Hypervisor.DisableBlock {
		// Kata's own Go runtime ships it and then silently shares the empty folder instead.
		findings = append(findings, failure(name, "set disable_block_device_use = false in [hypervisor.qemu] of "+c.Path,
			"disable_block_device_use is true: no volume can be plugged into a machine"))
	}
	for _, line := range c.Notices {
		findings = append(findings, warning(name, "check that the keys are meant; Kata's own runtime may honour them", "%s", line))
	}
	return findings, c
}
