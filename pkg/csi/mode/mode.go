// Package mode decides how a pod gets a volume: through its virtual machine, which mounts the disk itself (direct), or
// through a mount that the host makes (host).
//
// It is the table and nothing else. Package csi asks Kubernetes for what goes into it, and does what comes out of it.
// docs/modes.md has the same table for people.
package mode

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// Key is the StorageClass parameter, and the annotation of a PersistentVolumeClaim or a RuntimeClass.
const Key = "katadirect.io/mode"

// Mode is a value of Key.
type Mode string

// The modes. Decide answers Direct or Host only.
const (
	Direct Mode = "direct"
	Auto   Mode = "auto"
	Host   Mode = "host"
)

var (
	// ErrUnknown says that a text is no mode.
	ErrUnknown = errors.New("unknown mode")
	// ErrNoMachine says that a volume is for virtual machines, and the pod runs in none.
	ErrNoMachine = errors.New("the pod does not run in a virtual machine")
)

// Parse reads a parameter or an annotation. An empty one is as wrong as any other word: whoever wrote it meant
// something.
func Parse(text string) (Mode, error) {
	switch m := Mode(text); m {
	case Direct, Auto, Host:
		return m, nil
	}
	return "", fmt.Errorf("%w %q; use %s, %s or %s", ErrUnknown, text, Direct, Auto, Host)
}

// Wanted is what a volume asks for: what its claim says, else what its class says, else Direct. "" is saying nothing.
func Wanted(claim, class Mode) Mode {
	switch {
	case claim != "":
		return claim
	case class != "":
		return class
	}
	return Direct
}

// Runtime is what runs a pod.
type Runtime struct {
	// Class is the name of the pod's RuntimeClass; "" if it has none.
	Class string
	// Handler is the container runtime's name for it.
	Handler string
	// Says is the RuntimeClass's annotation: Direct for one whose pods are machines, Host for one whose pods are to have
	// mounts of the host. Auto, like "", leaves it to the handler.
	Says Mode
}

func (r Runtime) String() string {
	if r.Class == "" {
		return fmt.Sprintf("no RuntimeClass, so handler %q", r.Handler)
	}
	if r.Says != "" {
		return fmt.Sprintf("RuntimeClass %q with the annotation %s=%s", r.Class, Key, r.Says)
	}
	return fmt.Sprintf("RuntimeClass %q with handler %q", r.Class, r.Handler)
}

// Machines tells which handlers run pods in virtual machines: names, and patterns as of path.Match.
type Machines []string

// DefaultMachines are the handlers that Kata and this project install.
var DefaultMachines = Machines{"kata", "kata-*", "katadirect", "katadirect-*"}

// ParseMachines reads a list with commas. No name at all is a list too: then only annotations make machines.
func ParseMachines(list string) (Machines, error) {
	var all Machines
	for name := range strings.SplitSeq(list, ",") {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		if _, err := path.Match(name, ""); err != nil {
			return nil, fmt.Errorf("handler %q: %w", name, err)
		}
		all = append(all, name)
	}
	return all, nil
}

func (m Machines) String() string { return strings.Join(m, ",") }

// Run reports whether pods of that runtime are machines which take direct volumes.
func (m Machines) Run(r Runtime) bool {
	switch r.Says {
	case Direct:
		return true
	case Host:
		return false
	}
	for _, pattern := range m {
		if matched, err := path.Match(pattern, r.Handler); err == nil && matched {
			return true
		}
	}
	return false
}

// Decide says how a pod of that runtime gets a volume that is wanted so: Direct or Host. ErrNoMachine is the only
// refusal. The runtime does not matter for Host.
func (m Machines) Decide(wanted Mode, r Runtime) (Mode, error) {
	switch {
	case wanted == Host:
		return Host, nil
	case m.Run(r):
		return Direct, nil
	case wanted == Auto:
		return Host, nil
	}
	return "", fmt.Errorf("%w: it has %s. Give it a RuntimeClass of a virtual machine, or let the host mount the volume with "+
		"%s: %s, on the claim or in the StorageClass", ErrNoMachine, r, Key, Auto)
}
