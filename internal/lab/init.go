package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// initName is argv[0] of a lab's init.
	initName  = "katadirect-lab-init"
	initReady = "ready\n"
)

// cacheDir holds what the shim finds out about the host once per boot; labs share it with the host.
const cacheDir = "/run/katadirect"

// Init must be the first call of every program that opens labs, test binaries too. In an ordinary process it returns
// at once. In the process that a lab started as init of its namespaces it does that job and never returns.
func Init() {
	if os.Args[0] != initName {
		return
	}
	if err := prepare(os.Args[1]); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	go reap()
	fmt.Print(initReady)
	_, _ = io.Copy(io.Discard, os.Stdin) // ends with the program that opened the lab
	os.Exit(0)
}

// prepare makes the namespaces the lab's own: nothing mounted in them reaches the host, but reaches every namespace
// made inside them, as kubelet and the shim's file share need it.
func prepare(dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := privateRun(filepath.Join(dir, "host-cache")); err != nil {
		return err
	}
	// The CNI library keeps results there, and nowhere else.
	if err := tmpfs("/var/lib/cni"); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make mounts shared: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("loopback interface: %w", err)
	}
	return netlink.LinkSetUp(lo)
}

// privateRun puts an empty /run over the host's, and the host's cacheDir into it by way of the folder aside.
func privateRun(aside string) error {
	if err := errors.Join(os.MkdirAll(cacheDir, 0o755), os.MkdirAll(aside, 0o755)); err != nil {
		return err
	}
	if err := unix.Mount(cacheDir, aside, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", cacheDir, err)
	}
	if err := tmpfs("/run"); err != nil {
		return err
	}
	for _, d := range []string{cacheDir, "/run/lock"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount(aside, cacheDir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", cacheDir, err)
	}
	return errors.Join(unix.Unmount(aside, 0), os.Remove(aside))
}

func tmpfs(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount a private %s: %w", dir, err)
	}
	return nil
}

// reap waits for the orphans that the kernel gives to init, shims above all.
func reap() {
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	for range children {
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if pid <= 0 || err != nil {
				break
			}
		}
	}
}
