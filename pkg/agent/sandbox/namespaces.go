package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agent/container"
)

// namespaceDir is where Kata's agent keeps the pod's namespaces, each as a
// file that holds it open.
const namespaceDir = "/run/sandbox-ns"

func namespaceFile(kind string) string { return filepath.Join(namespaceDir, kind) }

// makeNamespaces makes the ipc and uts namespaces that the pod's containers
// join, and sets the pod's name in the latter.
func makeNamespaces(hostname string) error {
	if err := os.MkdirAll(namespaceDir, 0o755); err != nil {
		return err
	}
	if err := makeNamespace("ipc", unix.CLONE_NEWIPC, func() error { return nil }); err != nil {
		return err
	}
	return makeNamespace("uts", unix.CLONE_NEWUTS, func() error {
		if hostname == "" {
			return nil
		}
		return unix.Sethostname([]byte(hostname))
	})
}

// makeNamespace makes a namespace and binds it to its file. It is made by a
// thread of its own, which setup runs on and which ends with it, for a
// thread's way back is not always open.
func makeNamespace(kind string, flag int, setup func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked
		err := unix.Unshare(flag)
		if err == nil {
			err = setup()
		}
		if err == nil {
			err = holdNamespace(fmt.Sprintf("/proc/self/task/%d/ns/%s", unix.Gettid(), kind), namespaceFile(kind))
		}
		result <- err
	}()
	if err := <-result; err != nil {
		return fmt.Errorf("%s namespace of the pod: %w", kind, err)
	}
	return nil
}

// holdNamespace binds a namespace to a file, so that it outlives its processes.
func holdNamespace(source, file string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	f.Close()
	return unix.Mount(source, file, "", unix.MS_BIND, "")
}

// sharePIDs makes the pid namespace of the pod's first container the one that
// containers join which ask for the pod's, and returns its file.
func (s *Sandbox) sharePIDs(ctx context.Context) (file string, err error) {
	s.sharing.Lock()
	defer s.sharing.Unlock()
	file = namespaceFile("pid")
	if _, err := os.Lstat(file); !errors.Is(err, os.ErrNotExist) {
		return file, err // there is one, or nobody can tell
	}
	s.mu.Lock()
	first := s.first
	s.mu.Unlock()
	if first == nil {
		return "", nil // this is the first
	}
	// The agent may have stood in for it so far.
	if err := first.Realize(ctx); err != nil {
		return "", fmt.Errorf("pid namespace of the pod: %w", err)
	}
	if err := holdNamespace(fmt.Sprintf("/proc/%d/ns/pid", first.PID()), file); err != nil {
		return "", fmt.Errorf("pid namespace of the pod: %w", err)
	}
	return file, nil
}

// annotationPIDsOf is how a shim of this project names the container whose
// processes another one is to see, a debugger for instance.
const annotationPIDsOf = "katadirect.io/pids-of"

// surroundings are the namespaces for one more container. With sharePIDs it
// sees the processes of the target, or if there is none those of the pod.
func (s *Sandbox) surroundings(ctx context.Context, sharePIDs bool, target string) (container.Surroundings, error) {
	around := container.Surroundings{IPC: namespaceFile("ipc"), UTS: namespaceFile("uts")}
	var err error
	switch {
	case sharePIDs && target != "":
		around.PID, err = s.pidsOf(target)
	case sharePIDs:
		around.PID, err = s.sharePIDs(ctx)
	}
	return around, err
}

// pidsOf is the file of a container's pid namespace. Should the container end
// before the file is opened, its number leads nowhere for a while: the kernel
// gives out all others first.
func (s *Sandbox) pidsOf(id string) (file string, err error) {
	c, err := s.Container(id)
	if err != nil {
		return "", err
	}
	if c.PID() == 0 || c.Exited() {
		return "", fmt.Errorf("see the processes of container %s: %w: there are none", id, container.ErrState)
	}
	return fmt.Sprintf("/proc/%d/ns/pid", c.PID()), nil
}

func removeNamespaces() error {
	var failures []error
	for _, kind := range []string{"ipc", "uts", "pid"} {
		file := namespaceFile(kind)
		if err := unix.Unmount(file, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			failures = append(failures, fmt.Errorf("%s namespace of the pod: %w", kind, err))
		}
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			failures = append(failures, err)
		}
	}
	return errors.Join(failures...)
}
