// Command shim is the containerd shim for pods in virtual machines. It is installed in containerd's PATH as
// containerd-shim-katadirect-v2, for runtime_type "io.containerd.katadirect.v2", or in Kata's place as
// containerd-shim-kata-v2. It only puts the parts together: pkg/runtime/shimv2 is the process, pkg/runtime/task
// answers containerd, pkg/runtime/sandbox is the machine.
package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/katadirect/katadirect/pkg/runtime/shimv2"
	"github.com/katadirect/katadirect/pkg/runtime/task"
)

func main() {
	os.Exit(shimv2.Main(os.Args, shimv2.Config{
		Runtime:   runtimeName(os.Args[0]),
		SandboxOf: task.SandboxOf,
		Serve:     serve,
		Cleanup:   cleanup,
	}))
}

// runtimeName is containerd's name for the runtime whose shim is called that:
// containerd-shim-NAME-VERSION for io.containerd.NAME.VERSION.
func runtimeName(program string) string {
	name := strings.TrimPrefix(filepath.Base(program), "containerd-shim-")
	return "io.containerd." + strings.Replace(name, "-", ".", 1)
}
