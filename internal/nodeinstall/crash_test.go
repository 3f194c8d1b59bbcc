package nodeinstall_test

import (
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/katadirect/katadirect/internal/nodeinstall"
)

// killed runs the work in a process that is killed at the step, and says where it was. finished is true when the work
// has fewer steps.
func (w *world) killed(t *testing.T, program, work string, at int) (where string, finished bool) {
	t.Helper()
	options, err := json.Marshal(map[string]string{
		"Host": w.host, "Bin": w.payload, "Guest": filepath.Join(w.payload, "guest"), "Counter": counter,
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, work, strconv.Itoa(at), string(options))
	var out, said strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &said
	err = cmd.Run()
	if err == nil {
		return "", true
	}
	var exited *exec.ExitError
	if !errors.As(err, &exited) || exited.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("%s: %v: %s", work, err, said.String())
	}
	return strings.TrimSpace(out.String()), false
}

func TestAKilledInstallerIsMadeUpForByTheNext(t *testing.T) {
	program := filepath.Join(t.TempDir(), "killed")
	if out, err := exec.Command("go", "build", "-o", program, "./testdata/killed").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, test := range []struct {
		name, config string
		tried        func(step string) bool
	}{
		{"version 3", config3, func(string) bool { return true }},
		// The files of the version are the same steps, and tried above.
		{"version 2", config2, func(step string) bool { return !strings.Contains(step, "/opt/katadirect/versions") }},
	} {
		t.Run(test.name, func(t *testing.T) {
			reference := newWorld(t, test.config)
			before := reference.tree(t)
			var steps []string
			reference.mustInstall(t, func(o *nodeinstall.Options) {
				o.Step = func(what string) { steps = append(steps, what) }
			})
			if len(steps) < 40 {
				t.Fatalf("only %d steps: the steps are not seen any more", len(steps))
			}
			installed := reference.tree(t)
			for at, step := range steps {
				if test.tried(step) {
					killAt(t, program, test.config, at, before, installed)
				}
			}
		})
	}
}

// killAt kills an installation at a step and makes up for it, and then its removal at the same.
func killAt(t *testing.T, program, config string, at int, before, installed map[string]string) {
	t.Helper()
	w := newWorld(t, config)
	where, finished := w.killed(t, program, "install", at)
	if finished {
		t.Fatalf("step %d was not reached", at)
	}
	w.mustInstall(t)
	if diff := cmp.Diff(installed, w.tree(t)); diff != "" {
		t.Fatalf("killed at step %d, %s (-never killed +killed):\n%s", at, where, diff)
	}
	if !w.runtime.has("katadirect") {
		t.Fatalf("killed at step %d, %s: the runtime does not have the handler", at, where)
	}
	if where, finished = w.killed(t, program, "uninstall", at); !finished {
		if _, err := w.uninstall(t); err != nil {
			t.Fatalf("killed at step %d, %s: %v", at, where, err)
		}
	}
	w.isAsBefore(t, before)
	if w.runtime.has("katadirect") {
		t.Fatalf("killed at step %d, %s: the runtime still has the handler", at, where)
	}
}
