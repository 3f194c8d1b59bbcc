package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
)

// podDir is what kubelet has for one pod.
type podDir struct {
	t    *testing.T
	n    *kubelet.Node
	path string
}

func newPodDir(t *testing.T, n *kubelet.Node) podDir {
	d := podDir{t, n, filepath.Join(n.Lab.Dir, "kubelet-pods", uuid.NewString())}
	d.must(os.MkdirAll(d.path, 0o755))
	return d
}

func (d podDir) must(errs ...error) {
	d.t.Helper()
	if err := errors.Join(errs...); err != nil {
		d.t.Fatal(err)
	}
}

// volume makes the folder of one of kubelet's volumes.
func (d podDir) volume(plugin, name string) string {
	d.t.Helper()
	path := filepath.Join(d.path, "volumes", "kubernetes.io~"+plugin, name)
	d.must(os.MkdirAll(path, 0o755), os.Chmod(path, 0o777))
	return path
}

// mount mounts something in the lab, until the test's end.
func (d podDir) mount(fstype, options, path string) {
	d.t.Helper()
	d.shell(fmt.Sprintf("mount -t %s -o %s none %s", fstype, options, path))
	d.t.Cleanup(func() {
		if _, err := d.n.Lab.Run(context.WithoutCancel(d.t.Context()), lab.Command{Name: "umount", Path: "/bin/umount", Args: []string{"-l", path}}); err != nil {
			d.t.Log(err)
		}
	})
}

func (d podDir) shell(script string) {
	d.t.Helper()
	if _, err := d.n.Lab.Run(d.t.Context(), lab.Command{Name: "sh", Path: "/bin/sh", Args: []string{"-c", script}}); err != nil {
		d.t.Fatal(err)
	}
}

// write replaces the content of a volume in the way of kubelet's atomic writer.
func (d podDir) write(volume, generation string, content map[string]string) {
	d.t.Helper()
	next := "..generation_" + generation
	old, _ := os.Readlink(filepath.Join(volume, "..data"))
	d.must(os.Mkdir(filepath.Join(volume, next), 0o755))
	for name, text := range content {
		d.must(os.WriteFile(filepath.Join(volume, next, name), []byte(text), 0o644))
	}
	d.must(os.Symlink(next, filepath.Join(volume, "..data_tmp")), os.Rename(filepath.Join(volume, "..data_tmp"), filepath.Join(volume, "..data")))
	for name := range content {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(volume, name)); !errors.Is(err, os.ErrExist) {
			d.must(err)
		}
	}
	if old != "" {
		d.must(os.RemoveAll(filepath.Join(volume, old)))
	}
}

// await runs the script until it prints what is wanted, and returns how long that took.
func await(t *testing.T, c *lab.Container, script, want string) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		got, err := c.Exec(t.Context(), "sh", "-c", script)
		if err == nil && strings.TrimSpace(got) == want {
			return time.Since(began)
		}
		if time.Since(began) > time.Minute {
			t.Fatalf("%s still prints %q, %v, want %q", script, got, err, want)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// probe builds the program that looks at things from inside a container, and returns its mount.
func (d podDir) probe() lab.Mount {
	d.t.Helper()
	path := filepath.Join(d.path, "probe")
	build := osexec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "./probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := build.CombinedOutput(); err != nil {
		d.t.Fatalf("%v\n%s", err, said)
	}
	return lab.Mount{HostPath: path, ContainerPath: "/bin/probe", ReadOnly: true}
}

func TestVolumesAsKubeletMakesThem(t *testing.T) {
	eachContainerd(t, func(t *testing.T, n *kubelet.Node) {
		d := newPodDir(t, n)
		memory, disk := d.volume("empty-dir", "memory"), d.volume("empty-dir", "disk")
		d.mount("tmpfs", "size=8m", memory)
		d.shell("chgrp 3000 " + memory + "; chmod 2770 " + memory + "; mkdir " + memory + "/part")
		settings, token := d.volume("configmap", "settings"), d.volume("projected", "token")
		d.write(settings, "1", map[string]string{"colour": "red", "gone": "x"})
		d.write(token, "1", map[string]string{"token": "one"})
		log, hosts := filepath.Join(d.path, "termination-log"), filepath.Join(d.path, "etc-hosts")
		d.must(os.WriteFile(log, nil, 0o666), os.WriteFile(hosts, []byte("192.0.2.1 one\n"), 0o644))
		mounts := []lab.Mount{
			{HostPath: memory, ContainerPath: "/memory"},
			{HostPath: memory + "/part", ContainerPath: "/part"}, // a subPath
			{HostPath: disk, ContainerPath: "/disk"},
			{HostPath: settings, ContainerPath: "/settings", ReadOnly: true},
			{HostPath: token, ContainerPath: "/var/run/secrets/token", ReadOnly: true},
			{HostPath: filepath.Join(settings, "..data", "colour"), ContainerPath: "/single/colour", ReadOnly: true},
			{HostPath: log, ContainerPath: "/dev/termination-log"},
			{HostPath: hosts, ContainerPath: "/etc/hosts"},
			d.probe(),
		}
		pod := runPod(t, n, "pod")
		one, two := run(t, pod, "one", idle, mounts...), run(t, pod, "two", idle, mounts...)

		// An emptyDir in memory is the guest's, one for all containers, with the size and the group of the host's.
		exec(t, one, "echo shared >/memory/x; echo shared >/disk/x; echo part >/part/y")
		if got := exec(t, two, "cat /memory/part/y /part/y /memory/x /disk/x; stat -c '%a %g' /memory; df -k /memory | tail -1 | awk '{print $2}'; grep ' /memory ' /proc/mounts | cut -d' ' -f3"); got != "part\npart\nshared\nshared\n2770 3000\n8192\ntmpfs\n" {
			t.Errorf("the other container sees %q", got)
		}
		if _, err := one.Exec(t.Context(), "sh", "-c", "head -c 9000000 /dev/zero >/memory/big"); err == nil {
			t.Error("9 MB went into 8 MiB")
		}
		exec(t, one, "rm /memory/big")
		if entries, err := os.ReadDir(n.Lab.Path(memory)); err == nil && len(entries) > 1 {
			t.Errorf("the host's memory has %v", entries)
		}
		if got, err := os.ReadFile(filepath.Join(disk, "x")); err != nil || string(got) != "shared\n" {
			t.Errorf("the host's disk has %q, %v", got, err)
		}

		// On disk it is one folder for both, as on a host: sockets, locks and FIFOs work between them.
		exec(t, one, "probe listen /disk/socket >/dev/null 2>&1 & probe hold /disk/lock >/disk/held & mkfifo /disk/fifo; echo through >/disk/fifo &")
		await(t, two, "cat /disk/held", "locked")
		await(t, two, "probe connect /disk/socket", "hello")
		if got := exec(t, two, "probe lock /disk/lock; cat /disk/fifo"); got != "busy\nthrough\n" {
			t.Errorf("a lock and a FIFO of the other container's: %q", got)
		}

		// Its content outlives the container, and it stays one folder for who comes next.
		exec(t, two, "probe hold /disk/lock-of-two >/disk/held-by-two &")
		await(t, two, "cat /disk/held-by-two", "locked")
		if err := errors.Join(one.Stop(t.Context(), 0), one.Remove(t.Context())); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1500 * time.Millisecond) // by now the agent has unmounted what nobody else uses
		one = run(t, pod, "one-again", `probe inotify /settings /var/run/secrets/token >/events & `+idle, mounts...)
		if got := exec(t, one, "probe lock /disk/lock-of-two"); got != "busy\n" {
			t.Errorf("a lock of a container that was there before: %q", got)
		}
		if got := exec(t, one, "cat /memory/x /disk/x /settings/colour /single/colour /var/run/secrets/token/token; cat /etc/hosts"); got != "shared\nshared\nredredone192.0.2.1 one\n" {
			t.Errorf("the container started anew reads %q", got)
		}

		// What kubelet exchanges is exchanged in the guest, which is told of it.
		await(t, one, "head -n 1 /events", "watching")
		d.write(settings, "2", map[string]string{"colour": "blue", "new": "y"})
		took := await(t, one, "cat /settings/colour /settings/new", "bluey")
		t.Logf("the container reads a new configMap after %s", took)
		d.write(token, "2", map[string]string{"token": "two"})
		await(t, two, "cat /var/run/secrets/token/token", "two")
		await(t, one, "grep -c '^\\.\\.data$' /events", "2")
		if got := exec(t, one, "cat /single/colour; cat /settings/gone 2>/dev/null || echo nothing"); got != "rednothing\n" {
			t.Errorf("a single file, which stays as it was, and one that is gone: %q", got)
		}
		if _, err := one.Exec(t.Context(), "touch", "/settings/mine"); err == nil {
			t.Error("a configMap was written to")
		}

		// The termination message, and the file of host names.
		exec(t, one, "echo why >/dev/termination-log; echo 192.0.2.2 two >>/etc/hosts")
		if got, err := os.ReadFile(log); err != nil || string(got) != "why\n" {
			t.Errorf("the host reads the termination message %q, %v", got, err)
		}
		if got := exec(t, two, "cat /etc/hosts"); got != "192.0.2.1 one\n192.0.2.2 two\n" {
			t.Errorf("the other container's hosts: %q", got)
		}
		removePod(t, pod)
	})
}
