// Package criconf puts a runtime handler into the configurations of containerd, k3s, RKE2 and CRI-O, and takes it out
// again. It works on texts: who reads and writes them is internal/nodeinstall.
//
// The text of a person is never written anew from what was parsed: comments, order and spacing are theirs. What is
// added stands between two lines that say so, or is one string in the list imports. Three things are checked each time,
// by parsing before and after: that the handler is there then, that nothing else has changed, and that taking it out
// gives back the old text to the byte. A text that fails one of them, or that is not understood, is refused with
// ErrRefused and stays as it is.
package criconf

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// ErrRefused is returned for a configuration that must not be changed by a program. The message says why, and what a
// person can do.
var ErrRefused = errors.New("refused")

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, args...))
}

// Handler is the runtime handler that is added.
type Handler struct {
	Name       string // as in the RuntimeClass
	Shim       string // path of the shim on the host
	ConfigPath string // path of configuration.toml on the host
}

var (
	handlerName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	plainPath   = regexp.MustCompile(`^/[-A-Za-z0-9_./+~]*$`)
)

// Check says whether the handler can be written into a file without any quoting.
func (h Handler) Check() error {
	if !handlerName.MatchString(h.Name) {
		return fmt.Errorf("handler %q: RuntimeClass wants lower-case letters, digits and \"-\", at most 63", h.Name)
	}
	for _, p := range []string{h.Shim, h.ConfigPath} {
		if !plainPath.MatchString(p) {
			return fmt.Errorf("path %q: only letters, digits and -_./+~ are written into a runtime's configuration", p)
		}
	}
	return nil
}

// criPlugin is the table that containerd has its runtimes in, by the version of the file.
var criPlugin = map[int]string{2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.runtime"}

// table is the handler in containerd's configuration. In one of version 2 the type is the shim's path: containerd 1.6
// takes runtime_path and then does not use it, and all take a path as the type.
func (h Handler) table(version int) string {
	runtimeType := "io.containerd.katadirect.v2"
	if version == 2 {
		runtimeType = h.Shim
	}
	name := fmt.Sprintf("plugins.%q.containerd.runtimes.%s", criPlugin[version], h.Name)
	return fmt.Sprintf(`[%s]
  runtime_type = %q
  runtime_path = %q
  pod_annotations = ["io.katacontainers.*"]
  privileged_without_host_devices = true
  [%s.options]
    ConfigPath = %q
`, name, runtimeType, h.Shim, name, h.ConfigPath)
}

// path leads to the handler in the parsed configuration.
func (h Handler) path(version int) []string {
	return []string{"plugins", criPlugin[version], "containerd", "runtimes", h.Name}
}

// Mine begins every file that this program has made whole.
const Mine = `# Made by "katadirect node install", and removed by "katadirect node uninstall". The next install makes it anew.`

// IsMine reports whether the file was made by this program.
func IsMine(text []byte) bool { return strings.HasPrefix(string(text), Mine) }
