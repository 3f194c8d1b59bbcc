package nodeinstall

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/katadirect/katadirect/internal/nodeinstall/criconf"
)

// tryTimeout bounds a trial of a configuration.
const tryTimeout = 30 * time.Second

// tryOut has the host's own containerd read the configuration that is to come, under another name, and print what it
// makes of it. A configuration that it does not take, or does not find the handler in, is refused. Where the trial
// itself cannot be made, that is a warning.
func (n *node) tryOut(ctx context.Context, edits []edit, r *Report) (err error) {
	if n.runtime.Kind != Containerd || len(edits) == 0 {
		return nil
	}
	if n.runtime.Program == "" {
		r.warn("the configuration was not tried out: no containerd is in a usual place on the host; name it with --containerd-program")
		return nil
	}
	main, _, _, err := n.read(n.runtime.Config)
	if err != nil {
		return err
	}
	result := criconf.Result{Main: main}
	for _, e := range edits {
		if e.path == n.runtime.DropIn {
			result.DropIn = e.after
		} else {
			result.Main = e.after
		}
	}
	probe, dropIn := n.probes()
	text, err := result.Probe(dropIn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.removeProbes()) }()
	if err := errors.Join(n.write(dropIn, result.DropIn, 0o600), n.write(probe, text, 0o600)); err != nil {
		return err
	}
	return n.dump(ctx, probe, r)
}

// probes are the names under which a configuration and its drop-in are tried out. No usual pattern of imports has them.
func (n *node) probes() (main, dropIn string) {
	main = path.Join(path.Dir(n.runtime.Config), ".katadirect-trial")
	return main, main + "-drop-in"
}

func (n *node) removeProbes() error {
	main, dropIn := n.probes()
	if !n.root.Exists(main) && !n.root.Exists(dropIn) {
		return nil
	}
	return errors.Join(n.root.Remove(main), n.root.Remove(dropIn))
}

func (n *node) dump(ctx context.Context, config string, r *Report) error {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, n.runtime.Program, "--config", config, "config", "dump")
	cmd.Dir = "/"
	if !n.root.IsHost() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: n.root.Path("/")}
	}
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	var exited *exec.ExitError
	switch {
	case errors.As(err, &exited):
		return refuse("containerd does not take the configuration: %s", strings.TrimSpace(said.String()))
	case err != nil:
		r.warn("the configuration was not tried out: %s could not be run: %v", n.runtime.Program, err)
		return nil
	case !criconf.HasHandler(out.String(), n.handler()):
		return refuse("containerd takes the configuration, but does not see the runtime %q in it (%s --config FILE config dump)", n.Handler, n.runtime.Program)
	}
	return nil
}

// majorByProgram is the first part of containerd's version as its program says it; 0 if it cannot be known.
func (n *node) majorByProgram(ctx context.Context) int {
	if n.runtime.Kind != Containerd || n.runtime.Program == "" {
		return 0
	}
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, n.runtime.Program, "--version")
	cmd.Dir = "/"
	if !n.root.IsHost() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: n.root.Path("/")}
	}
	out, err := cmd.Output() // containerd github.com/containerd/containerd/v2 v2.2.9 commit
	fields := strings.Fields(string(out))
	if err != nil || len(fields) < 3 {
		return 0
	}
	var major int
	if _, err := fmt.Sscanf(strings.TrimPrefix(fields[2], "v"), "%d.", &major); err != nil {
		return 0
	}
	return major
}
