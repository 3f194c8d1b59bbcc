package nodeinstall_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/katadirect/katadirect/internal/nodeinstall"
)

// The test program becomes an installer that kills itself at its n-th step when these are set.
const (
	crashWork  = "NODEINSTALL_CRASH_WORK" // install or uninstall
	crashWorld = "NODEINSTALL_CRASH_WORLD"
	crashAt    = "NODEINSTALL_CRASH_AT"
)

func TestMain(m *testing.M) {
	if work := os.Getenv(crashWork); work != "" {
		os.Exit(crash(work))
	}
	os.Exit(m.Run())
}

func crash(work string) int {
	at, err := strconv.Atoi(os.Getenv(crashAt))
	if err != nil {
		return 2
	}
	dir := os.Getenv(crashWorld)
	w := &world{dir: dir, host: filepath.Join(dir, "host"), payload: filepath.Join(dir, "payload")}
	o := w.options()
	var step int
	o.Step = func(what string) {
		if step == at {
			fmt.Println(what)
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // not a step further
		}
		step++
	}
	if work == "install" {
		_, err = nodeinstall.Install(context.Background(), o)
	} else {
		_, err = nodeinstall.Uninstall(context.Background(), o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// killed runs the work in a process that is killed at the step, and says where it was. finished is true when the work
// has fewer steps.
func (w *world) killed(t *testing.T, work string, at int) (where string, finished bool) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), crashWork+"="+work, crashWorld+"="+w.dir, crashAt+"="+strconv.Itoa(at))
	var out, said strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
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
	for name, config := range map[string]string{"version 2": config2, "version 3": config3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reference := newWorld(t, config)
			before := reference.tree(t)
			reference.mustInstall(t)
			installed := reference.tree(t)
			for at := 0; ; at++ {
				w := newWorld(t, config)
				where, finished := w.killed(t, "install", at)
				if finished {
					if at < 20 {
						t.Errorf("only %d steps: the steps are not seen any more", at)
					}
					return
				}
				w.mustInstall(t)
				if diff := cmp.Diff(installed, w.tree(t)); diff != "" {
					t.Fatalf("killed at step %d, %s (-never killed +killed):\n%s", at, where, diff)
				}
				if !w.runtime.has("katadirect") {
					t.Fatalf("killed at step %d, %s: the runtime does not have the handler", at, where)
				}

				// The same step of the way back.
				if where, finished = w.killed(t, "uninstall", at); !finished {
					if _, err := w.uninstall(t); err != nil {
						t.Fatalf("killed at step %d, %s: %v", at, where, err)
					}
				}
				w.isAsBefore(t, before)
				if w.runtime.has("katadirect") {
					t.Fatalf("killed at step %d, %s: the runtime still has the handler", at, where)
				}
			}
		})
	}
}
