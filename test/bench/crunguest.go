package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// crunMachine is a bare machine with a file share and crun in it: what a container costs without any of our code. Its
// kernel, its crun, and the container's root file system and specification are those that a pod of ours has.
type crunMachine struct {
	*bareMachine
	daemon *exec.Cmd
	share  string
	booted time.Duration
}

const shareTag = "bareShare"

// startCrun boots a machine whose containers get the root file system. booted is from the start of the file share to the
// bare guest's first answer.
func startCrun(ctx context.Context, e *env, rootfs string) (_ *crunMachine, err error) {
	m := &crunMachine{}
	if m.share, err = os.MkdirTemp(e.dir, "bare-share-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			m.stop()
		}
	}()
	if out, err := exec.CommandContext(ctx, "cp", "-a", rootfs, filepath.Join(m.share, "rootfs")).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("copy the root file system: %w: %s", err, out)
	}
	start := time.Now()
	socket := m.share + ".sock"
	m.daemon = exec.CommandContext(ctx, "/usr/lib/qemu/virtiofsd",
		"--socket-path="+socket, "-o", "source="+m.share, "-o", "cache=auto", "--thread-pool-size=1")
	if err := m.daemon.Start(); err != nil {
		return nil, err
	}
	if err := awaitFile(ctx, socket); err != nil {
		return nil, err
	}
	m.bareMachine, _, err = bootBare(ctx, e, e.crunImage, []string{
		"-object", fmt.Sprintf("memory-backend-memfd,id=mem,size=%dM,share=on", memoryMiB), "-numa", "node,memdev=mem",
		"-chardev", "socket,id=fs,path=" + socket, "-device", "vhost-user-fs-pci,chardev=fs,tag=" + shareTag,
		"-chardev", "socket,id=stream,path=" + m.share + ".stream,server=on,wait=off",
		"-device", "virtserialport,chardev=stream,name=bare.1",
	})
	if err != nil {
		return nil, err
	}
	m.booted = time.Since(start)
	_, err = m.ask("containers " + shareTag)
	return m, err
}

func awaitFile(ctx context.Context, path string) error {
	for {
		_, err := os.Stat(path)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}

// create has crun create a container and start it, and returns how long the two take.
func (m *crunMachine) create(id string, spec *specs.Spec) (time.Duration, error) {
	if err := m.put(id+".json", forCrun(spec, id)); err != nil {
		return 0, err
	}
	if _, err := m.ask("bundle " + id + " " + id + ".json"); err != nil {
		return 0, err
	}
	start := time.Now()
	for _, request := range []string{"crun create --bundle /run/" + id + " " + id, "crun start " + id} {
		if _, err := m.ask(request); err != nil {
			return 0, err
		}
	}
	return time.Since(start), nil
}

// exec has crun run a process in the container to its end.
func (m *crunMachine) exec(id string) (time.Duration, error) {
	start := time.Now()
	_, err := m.ask("crun exec --process /share/process.json " + id)
	return time.Since(start), err
}

// stream has the guest write to a port of its own, by the job "stream", "pipe" or "splice", and returns how fast that arrives.
func (m *crunMachine) stream(ctx context.Context, job string, bytes int64) (mbPerSecond float64, err error) {
	conn, err := m.dial(ctx, m.share+".stream")
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(m.guest, "%s %d\n", job, bytes>>20); err != nil {
		return 0, err
	}
	if err := m.guest.Flush(); err != nil {
		return 0, err
	}
	mbPerSecond, err = readStream(conn, bytes)
	if err != nil {
		return 0, err
	}
	_, err = m.answer(job)
	return mbPerSecond, err
}

// put writes a JSON file into the share.
func (m *crunMachine) put(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(m.share, name), data, 0o644)
}

// forCrun makes of containerd's specification one for a guest: without what only the host has.
func forCrun(spec *specs.Spec, id string) *specs.Spec {
	out := *spec
	out.Version, out.Hooks, out.Annotations = "1.0.2", nil, nil
	out.Root = &specs.Root{Path: "/share/rootfs"}
	out.Mounts = nil
	for _, m := range spec.Mounts {
		if m.Type != "bind" {
			out.Mounts = append(out.Mounts, m)
		}
	}
	process := *spec.Process
	process.ApparmorProfile, process.SelinuxLabel = "", ""
	out.Process = &process
	linux := *spec.Linux
	linux.CgroupsPath, linux.Resources, linux.RootfsPropagation = "/k/"+id, nil, "rslave"
	linux.Namespaces = nil
	for _, kind := range []specs.LinuxNamespaceType{
		specs.MountNamespace, specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace,
	} {
		linux.Namespaces = append(linux.Namespaces, specs.LinuxNamespace{Type: kind})
	}
	out.Linux = &linux
	return &out
}

func (m *crunMachine) stop() {
	if m.bareMachine != nil {
		m.bareMachine.stop()
	}
	if m.daemon != nil && m.daemon.Process != nil {
		_ = m.daemon.Process.Kill()
		_ = m.daemon.Wait()
	}
	_ = os.RemoveAll(m.share)
	_ = os.Remove(m.share + ".sock")
	_ = os.Remove(m.share + ".stream")
}
