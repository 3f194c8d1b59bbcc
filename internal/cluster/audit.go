package cluster

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"
)

// auditPolicy keeps what the driver's own accounts ask for, and nobody else: who, what, and what was answered.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, userGroups: ["system:serviceaccounts:` + driverNamespace + `"]}
- {level: None}
`

// Asked is something that one of the driver's accounts has asked of the API server.
type Asked struct {
	Account string // without its namespace
	Program string // as it calls itself, without its version
	Verb    string
	// Resource has the subresource with it, and the group unless it is the core's: "nodes/status", "leases.coordination.k8s.io".
	Resource  string
	Namespace string // of what it asked for; empty for what is in none
	Name      string
	Allowed   bool
	At        time.Time
}

func (c *Cluster) auditLog() string { return c.path("logs", "audit.log") }

// auditFlags make the API server keep it.
func (c *Cluster) auditFlags() ([]string, error) {
	policy := c.path("audit.yaml")
	return []string{"--audit-policy-file=" + policy, "--audit-log-path=" + c.auditLog(), "--audit-log-maxsize=100", "--audit-log-maxbackup=1"},
		os.WriteFile(policy, []byte(auditPolicy), 0o600)
}

// Asked is all that the driver's accounts have asked of the API server so far.
func (c *Cluster) Asked() (all []Asked, err error) {
	log, err := os.Open(c.auditLog())
	if err != nil {
		return nil, err
	}
	defer log.Close()
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		asked, err := readAudit(lines.Bytes())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.auditLog(), err)
		}
		all = append(all, asked)
	}
	return all, lines.Err()
}

// readAudit reads an Event of audit.k8s.io/v1.
func readAudit(line []byte) (Asked, error) {
	var event struct {
		Verb, UserAgent string
		User            struct{ Username string }
		ObjectRef       struct{ Resource, Subresource, APIGroup, Namespace, Name string }
		Annotations     map[string]string
		StageTimestamp  time.Time
	}
	if err := json.Unmarshal(line, &event); err != nil {
		return Asked{}, err
	}
	object := event.ObjectRef
	if object.Subresource != "" {
		object.Resource += "/" + object.Subresource
	}
	if object.APIGroup != "" {
		object.Resource += "." + object.APIGroup
	}
	program, _, _ := strings.Cut(event.UserAgent, "/")
	return Asked{
		Account: event.User.Username[strings.LastIndex(event.User.Username, ":")+1:], Program: program, Verb: event.Verb,
		Resource: object.Resource, Namespace: object.Namespace, Name: object.Name,
		Allowed: event.Annotations["authorization.k8s.io/decision"] == "allow", At: event.StageTimestamp,
	}, nil
}
