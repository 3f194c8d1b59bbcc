package container

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agent/process"
	"github.com/katadirect/katadirect/pkg/agent/reaper"
)

// Runtime starts containers. Its fields are set once; it may then be used by
// several goroutines.
type Runtime struct {
	Reaper *reaper.Reaper
	// Crun is the OCI runtime's path; Seal makes it faster.
	Crun string
	// Dir holds a folder for each container, Dir/ID.
	Dir string
	// State is crun's own folder.
	State string
	// Cgroups is the folder in the cgroup2 file system that holds a cgroup for
	// each container.
	Cgroups string
	// PipeSize is the buffer of an output pipe, in bytes.
	PipeSize int
}

// bundle is the container's folder.
func (r *Runtime) bundle(id string) string { return filepath.Join(r.Dir, id) }

// cgroup is the container's cgroup.
func (r *Runtime) cgroup(id string) string { return filepath.Join(r.Cgroups, id) }

// crun runs crun to its end with the standard streams given, which it passes
// on to the container. What it complains about comes back in the error.
func (r *Runtime) crun(ctx context.Context, id string, ends process.Ends, args ...string) error {
	// Not on standard error: that is the container's.
	log := filepath.Join(r.bundle(id), "crun.log")
	defer os.Remove(log)
	global := []string{"--root", r.State, "--cgroup-manager", "cgroupfs", "--log", log}
	cmd := exec.Command(r.Crun, append(global, args...)...)
	cmd.Args[0] = "crun" // the path may not say so, and crun looks at it
	// A nil *os.File in an interface is not nil.
	if ends.Stdin != nil {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = ends.Stdin, ends.Stdout, ends.Stderr
	}
	child, err := r.Reaper.Start(cmd)
	if err != nil {
		return err
	}
	release := context.AfterFunc(ctx, func() { _ = child.Signal(unix.SIGKILL) })
	defer release()
	if status := child.Status(); status != 0 {
		if ctx.Err() != nil {
			return fmt.Errorf("crun %s: %w", args[0], ctx.Err())
		}
		return fmt.Errorf("crun %s: status %d: %s", args[0], status, complaint(log))
	}
	return nil
}

// complaint is the last line of crun's log.
func complaint(log string) string {
	data, err := os.ReadFile(log)
	if err != nil || len(bytes.TrimSpace(data)) == 0 {
		return "no reason given"
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	const most = 1000
	last := lines[len(lines)-1]
	return last[:min(len(last), most)]
}

// launch has crun make a process, on pipes or on a terminal, and returns it.
// args are crun's; the files that launch itself needs have names beginning
// with name.
func (r *Runtime) launch(ctx context.Context, id, name string, terminal bool, args ...string) (*process.Process, error) {
	base := filepath.Join(r.bundle(id), name)
	pidFile := base + ".pid"
	defer os.Remove(pidFile)
	args = append(args, "--pid-file", pidFile)

	prepare := pipes
	if terminal {
		prepare = console
	}
	s, err := prepare(r.PipeSize)
	if err != nil {
		return nil, err
	}
	defer s.close()
	child, err := r.Reaper.Adopt(func() (int, error) {
		// The id stands last, after crun's options.
		if err := r.crun(ctx, id, s.ends, append(append(args, s.args...), id)...); err != nil {
			return 0, err
		}
		return readPID(pidFile)
	})
	if err != nil {
		return nil, err
	}
	streams, err := s.collect()
	if err != nil {
		_ = child.Signal(unix.SIGKILL)
		return nil, err
	}
	return process.New(child, streams), nil
}

func readPID(path string) (int, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("process id from crun: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("process id from crun: %q", data)
	}
	return pid, nil
}

func writeJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}
