package directvolume

import (
	"os/exec"
	"strings"
	"testing"
)

// A vendor's driver imports this package alone. It must not pay for anything of ours or of others.
func TestPackageNeedsOnlyTheStandardLibraryAndSys(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	must(t, err)
	for _, path := range strings.Fields(string(out)) {
		if path != "github.com/katadirect/katadirect/pkg/directvolume" && path != "golang.org/x/sys/unix" {
			t.Errorf("it now needs %s", path)
		}
	}
}
