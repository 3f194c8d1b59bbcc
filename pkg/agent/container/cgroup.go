package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agent/process"
)

// cgroupMount is where the cgroup2 file system is mounted.
const cgroupMount = "/sys/fs/cgroup"

// Pause stops every process of the container until Resume.
func (c *Container) Pause(ctx context.Context) error { return c.freeze(ctx, "1") }

// Resume ends a Pause.
func (c *Container) Resume(ctx context.Context) error { return c.freeze(ctx, "0") }

// freeze writes the cgroup's freezer and waits until the kernel says that the
// state is reached.
func (c *Container) freeze(ctx context.Context, state string) error {
	dir := c.runtime.cgroup(c.ID)
	if err := os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte(state), 0); err != nil {
		return fmt.Errorf("pause or resume container %s: %w", c.ID, err)
	}
	err := waitCgroupEvent(ctx, dir, "frozen", state)
	if err != nil {
		return fmt.Errorf("pause or resume container %s: %w", c.ID, err)
	}
	return nil
}

// Update changes the cgroup's limits.
func (c *Container) Update(ctx context.Context, r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	if err := c.Realize(ctx); err != nil {
		return err
	}
	file := filepath.Join(c.runtime.bundle(c.ID), "resources.json")
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.removed {
		return fmt.Errorf("update container %s: %w", c.ID, ErrState)
	}
	if err := writeJSON(file, cgroup2Resources(r)); err != nil {
		return fmt.Errorf("update container %s: %w", c.ID, err)
	}
	defer removeFile(file)
	if err := c.runtime.crun(ctx, c.ID, process.Ends{}, "update", "--resources", file, c.ID); err != nil {
		return fmt.Errorf("update container %s: %w", c.ID, err)
	}
	return nil
}

// removeCgroup removes what crun may have left of a container's cgroup, once
// its processes, which have been killed, are gone.
func (r *Runtime) removeCgroup(ctx context.Context, id string) error {
	dir := r.cgroup(id)
	err := waitCgroupEvent(ctx, dir, "populated", "0")
	if err == nil {
		err = unix.Rmdir(dir)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove cgroup of container %s: %w", id, err)
	}
	return nil
}

// waitCgroupEvent waits until ctx ends for a line of cgroup.events to have a
// value. A change is announced as an exceptional condition of the open file.
func waitCgroupEvent(ctx context.Context, dir, key, value string) error {
	f, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if err != nil {
		return err
	}
	defer f.Close()
	want := []byte(key + " " + value + "\n")
	buffer := make([]byte, 256)
	for {
		n, err := f.ReadAt(buffer, 0)
		if n == 0 && err != nil {
			return err
		}
		if bytes.Contains(buffer[:n], want) {
			return nil
		}
		// A slice of time at a time, to see the end of ctx.
		const slice = 100 * time.Millisecond
		fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(fds, int(slice.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// handles says whether a process has a handler for a signal, or ignores it.
func handles(pid int, sig unix.Signal) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(line, ":")
		if key != "SigCgt" && key != "SigIgn" {
			continue
		}
		mask, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		if err == nil && mask&(1<<(uint(sig)-1)) != 0 {
			return true
		}
	}
	return false
}

// applySysctls sets kernel parameters of the whole machine.
func applySysctls(settings map[string]string) error {
	for key, value := range settings {
		path := filepath.Join("/proc/sys", filepath.Clean("/"+sysctlPath(key)))
		if err := os.WriteFile(path, []byte(value), 0); err != nil {
			return fmt.Errorf("%w: sysctl %s: %w", ErrSpec, key, err)
		}
	}
	return nil
}

// sysctlPath turns a sysctl's name into its path below /proc/sys. In a name
// with dots a slash stands for a dot that is part of a name, and the other way
// round in one that begins with slashes.
func sysctlPath(key string) string {
	first := strings.IndexAny(key, "./")
	if first < 0 || key[first] == '/' {
		return key
	}
	return strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, key)
}

func removeFile(path string) { _ = os.Remove(path) }
