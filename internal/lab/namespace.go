package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// namespace is a set of mount, process, network, IPC and UTS namespaces, held by their init.
type namespace struct {
	init   *exec.Cmd
	alive  io.Closer // init's standard input: init ends when it is closed, also by our death
	ended  chan struct{}
	ns     map[string]*os.File
	root   *os.File
	procID string // identity of the process namespace, as in /proc/PID/ns/pid
}

// newNamespace starts init, which mounts what only the lab may see, and returns when that is done.
func newNamespace(ctx context.Context, dir string, env []string) (_ *namespace, err error) {
	fromInit, toUs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer fromInit.Close()
	cmd := &exec.Cmd{
		Path:   "/proc/self/exe",
		Args:   []string{initName, dir},
		Env:    append(os.Environ(), env...),
		Stdout: toUs,
		Stderr: toUs,
		SysProcAttr: &unix.SysProcAttr{
			Setsid:     true, // a Ctrl-C in the terminal is for the program, which then ends the lab in order
			Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		},
	}
	alive, err := cmd.StdinPipe()
	if err != nil {
		return nil, errors.Join(err, toUs.Close())
	}
	err = cmd.Start()
	_ = toUs.Close()
	if err != nil {
		return nil, fmt.Errorf("start the lab's namespaces (needs root with CAP_SYS_ADMIN): %w", err)
	}
	n := &namespace{init: cmd, alive: alive, ended: make(chan struct{}), ns: map[string]*os.File{}}
	go func() {
		_ = cmd.Wait()
		close(n.ended)
	}()
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close(ctx))
		}
	}()
	stop := context.AfterFunc(ctx, func() { _ = alive.Close() })
	defer stop()
	said, _ := bufio.NewReader(fromInit).ReadString('\n')
	if said != initReady {
		return nil, fmt.Errorf("set up the lab's namespaces: init said %q", strings.TrimSpace(said))
	}
	return n, n.open(cmd.Process.Pid)
}

// open opens the namespaces whose init has that process id.
func (n *namespace) open(init int) error {
	for _, kind := range []string{"mnt", "pid", "net", "ipc", "uts"} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", init, kind))
		if err != nil {
			return err
		}
		n.ns[kind] = f
	}
	var err error
	if n.root, err = os.Open(fmt.Sprintf("/proc/%d/root", init)); err != nil {
		return err
	}
	n.procID, err = os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", init))
	return err
}

// path is how a file of the lab is reached from outside of its mount namespace.
func (n *namespace) path(inside string) string {
	return filepath.Join("/proc", strconv.Itoa(n.init.Process.Pid), "root", inside)
}

// Enter starts cmd inside the lab whose init has that process id, and which another program may have opened. The
// caller waits for it.
func Enter(init int, cmd *exec.Cmd) error {
	n := &namespace{ns: map[string]*os.File{}}
	defer n.closeFiles()
	if err := n.open(init); err != nil {
		return err
	}
	return n.start(cmd)
}

// start starts cmd inside the namespaces. The process is our child; its file descriptors are as cmd says.
func (n *namespace) start(cmd *exec.Cmd) error {
	result := make(chan error, 1)
	go func() {
		// Never unlocked: the thread belongs to the lab from now on, and ends with this goroutine.
		runtime.LockOSThread()
		if err := n.enter(); err != nil {
			result <- err
			return
		}
		result <- cmd.Start()
	}()
	return <-result
}

// enter moves the calling thread, and the children it starts, into the namespaces.
func (n *namespace) enter() error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // the kernel wants it for entering a mount namespace
		return fmt.Errorf("unshare: %w", err)
	}
	for kind, f := range n.ns {
		if err := unix.Setns(int(f.Fd()), 0); err != nil {
			return fmt.Errorf("enter the lab's %s namespace: %w", kind, err)
		}
	}
	// Entering leads to the root of all mounts, which is not ours when we run in a chroot.
	if err := errors.Join(unix.Fchdir(int(n.root.Fd())), unix.Chroot(".")); err != nil {
		return fmt.Errorf("enter the lab's root: %w", err)
	}
	return nil
}

// pids lists the processes of the namespace except init, with the ids they have in the host's /proc. Zombies are
// left out: they hold nothing, and init reaps them.
func (n *namespace) pids() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == n.init.Process.Pid {
			continue
		}
		id, err := os.Readlink(filepath.Join("/proc", e.Name(), "ns/pid"))
		if err != nil || id != n.procID || isZombie(pid) {
			continue
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

func isZombie(pid int) bool {
	_, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return errors.Is(err, os.ErrNotExist)
}

func (n *namespace) closeFiles() {
	for _, f := range n.ns {
		_ = f.Close()
	}
	if n.root != nil {
		_ = n.root.Close()
	}
}

// close ends every process of the namespaces and returns when they are gone.
func (n *namespace) close(ctx context.Context) error {
	n.closeFiles()
	_ = n.alive.Close()
	select {
	case <-n.ended:
		return nil
	case <-time.After(5 * time.Second): // init does nothing but wait for the end: it hangs only in the kernel
		_ = n.init.Process.Kill()
	}
	select {
	case <-n.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the lab's init (pid %d) does not end: %w", n.init.Process.Pid, ctx.Err())
	}
}
