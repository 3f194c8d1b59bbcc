package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The jobs with containers, each with the one program that does it.
//
//	containers TAG        make the machine ready for crun: a root it can leave, cgroups, the file share TAG on /share
//	bundle ID FILE        make a bundle with that file of the share as its config.json
//	crun ARGUMENTS        run crun to its end, with nothing on its standard streams
//	stream MIB            have dd of the share's root file system write zeros to the second port, in pieces of 1 MiB
//	pipe MIB              the same to a pipe, from which it is passed on to the port
//	splice MIB            the same, passed on by pages, with splice(2)
//	sink MIB              the same, but thrown away; answers how many microseconds it took from the first byte to the last

var containerMounts = []struct {
	target, source, fstype string
	flags                  uintptr
	data                   string
}{
	{"/dev/pts", "devpts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,ptmxmode=0666"},
	{"/run", "tmpfs", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
	{"/tmp", "tmpfs", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	{"/sys/fs/cgroup", "cgroup2", "cgroup2", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "nsdelegate"},
}

func containers(tag string) error {
	if err := loadModules("share"); err != nil {
		return err
	}
	if err := leaveInitramfs(); err != nil {
		return err
	}
	for _, m := range containerMounts {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := handDownControllers(); err != nil {
		return err
	}
	if err := os.MkdirAll("/share", 0o755); err != nil {
		return err
	}
	return unix.Mount(tag, "/share", "virtiofs", 0, "")
}

// leaveInitramfs puts a bind mount of the root over the root: pivot_root does not work on an initramfs itself.
func leaveInitramfs() error {
	if err := os.MkdirAll("/newroot", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("/", "/newroot", "", unix.MS_BIND, ""); err != nil {
		return err
	}
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if err := unix.Mount(dir, "/newroot"+dir, "", unix.MS_MOVE, ""); err != nil {
			return err
		}
	}
	if err := os.Chdir("/newroot"); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, "")
}

const writersCgroup = "/sys/fs/cgroup/k/writer"

func handDownControllers() error {
	const top = "/sys/fs/cgroup"
	all, err := os.ReadFile(top + "/cgroup.controllers")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(top+"/k", 0o755); err != nil {
		return err
	}
	if err := os.MkdirAll(writersCgroup, 0o755); err != nil {
		return err
	}
	enable := []byte("+" + strings.Join(strings.Fields(string(all)), " +"))
	return errors.Join(
		os.WriteFile(top+"/cgroup.subtree_control", enable, 0),
		os.WriteFile(top+"/k/cgroup.subtree_control", enable, 0))
}

func bundle(id, file string) error {
	data, err := os.ReadFile("/share/" + file)
	if err != nil {
		return err
	}
	if err := os.MkdirAll("/run/"+id, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join("/run", id, "config.json"), data, 0o644)
}

func crun(args []string) error {
	cmd := exec.Command("/usr/bin/crun", append([]string{"--root", "/run/crun", "--cgroup-manager", "cgroupfs"}, args...)...)
	// A file: what the container inherits must not be a pipe that somebody waits for the end of.
	out, err := os.OpenFile("/run/output", os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile("/run/output")
		return fmt.Errorf("crun %s: %w: %s", args[0], err, bytes.ReplaceAll(said, []byte("\n"), []byte("; ")))
	}
	return nil
}

// outputs are the jobs that have a process write.
var outputs = []string{"stream", "pipe", "splice", "sink"}

func output(job string, mib int64) (microseconds int64, err error) {
	switch job {
	case "sink":
		return sink(mib)
	case "pipe":
		return 0, pipe(mib, passOn)
	case "splice":
		return 0, pipe(mib, splice)
	}
	return 0, stream(mib)
}

func stream(mib int64) error {
	port, err := openPort("bare.1")
	if err != nil {
		return err
	}
	defer port.Close()
	cmd := writer(mib)
	cmd.Stdout = port
	return cmd.Run()
}

func writer(mib int64) *exec.Cmd {
	return exec.Command("/share/rootfs/bin/busybox", "dd", "if=/dev/zero", "bs=1M", fmt.Sprintf("count=%d", mib))
}

// pieceBytes is what the writer writes at once, and a pipe can hold. With less it is taken turns more often, which costs
// more than anything else: with 32 KiB half as much arrives.
const pieceBytes = 1 << 20

func pipe(mib int64, passOn func(from, to int) error) error {
	port, err := openPort("bare.1")
	if err != nil {
		return err
	}
	defer port.Close()
	return pour(mib, func(from int) error { return passOn(from, int(port.Fd())) })
}

// sink has the kernel throw away the pipe's pages: what is left is what the pipe itself costs.
func sink(mib int64) (microseconds int64, err error) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	err = pour(mib, func(from int) error {
		if _, err := await(from); err != nil {
			return err
		}
		start := time.Now()
		err := splice(from, int(null.Fd()))
		microseconds = time.Since(start).Microseconds()
		return err
	})
	return microseconds, err
}

// pour has the writer write to a pipe, and drain empty it. The writer is in a cgroup, as a container's processes are: what
// its pipe holds is charged to it.
func pour(mib int64, drain func(from int) error) error {
	from, to, err := os.Pipe()
	if err != nil {
		return err
	}
	defer from.Close()
	if _, err := unix.FcntlInt(from.Fd(), unix.F_SETPIPE_SZ, pieceBytes); err != nil {
		return err
	}
	cgroup, err := os.Open(writersCgroup)
	if err != nil {
		return err
	}
	defer cgroup.Close()
	cmd := writer(mib)
	cmd.Stdout = to
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	err = cmd.Start()
	to.Close()
	if err != nil {
		return err
	}
	drained := drain(int(from.Fd()))
	from.Close() // it may still write
	return errors.Join(drained, cmd.Wait())
}

// await waits until the pipe has something, or has ended.
func await(pipe int) (events int16, err error) {
	for {
		ready := []unix.PollFd{{Fd: int32(pipe), Events: unix.POLLIN}}
		if _, err := unix.Poll(ready, -1); !errors.Is(err, unix.EINTR) {
			return ready[0].Revents, err
		}
	}
}

// splice has the kernel move the pipe's pages to the port until the pipe's end. The port does not wait for a pipe that is
// empty.
func splice(from, to int) error {
	for {
		events, err := await(from)
		if err != nil || events&unix.POLLIN == 0 {
			return err
		}
		if _, err := unix.Splice(from, nil, to, nil, pieceBytes, unix.SPLICE_F_MOVE); err != nil {
			return err
		}
	}
}

// passOn reads from the pipe and writes to the port until the pipe's end.
func passOn(from, to int) error {
	piece := make([]byte, pieceBytes)
	for {
		n, err := unix.Read(from, piece)
		if n == 0 || err != nil {
			return err
		}
		for left := piece[:n]; len(left) > 0; {
			w, err := unix.Write(to, left)
			if err != nil {
				return err
			}
			left = left[w:]
		}
	}
}
