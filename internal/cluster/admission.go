package cluster

import (
	"errors"
	"os"
)

// podSecurity is what a namespace admits that does not say it: no privileged pods, as on a cluster that enforces Pod
// Security. What is installed has to say so of its namespace.
const podSecurity = `apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults: {enforce: baseline, enforce-version: latest}
`

// controlFlags make the API server keep what the driver asks of it, and refuse what is not admitted. Kubernetes' own suite
// has its say in that itself.
func (c *Cluster) controlFlags() ([]string, error) {
	flags, err := c.auditFlags()
	if c.opts.WithoutDriver {
		return flags, err
	}
	file := c.path("admission.yaml")
	return append(flags, "--admission-control-config-file="+file), errors.Join(err, os.WriteFile(file, []byte(podSecurity), 0o600))
}
