package qemu

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/katadirect/katadirect/internal/pidfd"
)

// Kill ends the QEMU of the machine folder dir from a process that did not start it, and removes the folder. It is
// how a crashed shim's machine is cleaned up, though such a machine is normally dead already. A folder that is not
// there is success. A process is killed only if its command line names this very folder.
func Kill(ctx context.Context, dir string) error {
	if !filepath.IsAbs(dir) {
		return fmt.Errorf("kill virtual machine: folder %q is not an absolute path", dir)
	}
	dir = filepath.Clean(dir)
	if err := killProcess(ctx, dir); err != nil {
		return fmt.Errorf("kill virtual machine of %s: %w", dir, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("kill virtual machine: %w", err)
	}
	return nil
}

func killProcess(ctx context.Context, dir string) error {
	pid, alive := livingQEMU(dir)
	if !alive {
		return nil
	}
	// The descriptor stands for one process even if its number is used again; so look once more, through it.
	held, err := pidfd.Open(pid)
	if err != nil {
		return err
	}
	defer held.Close()
	if again, alive := livingQEMU(dir); !alive || again != pid {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, killGrace)
	defer cancel()
	return held.Kill(ctx)
}

// livingQEMU finds the process of the machine folder dir by the pid file that QEMU wrote. Numbers are used again, so
// what counts is that the process has the pid file's path on its command line; no two machines share that.
func livingQEMU(dir string) (pid int, alive bool) {
	path := pidFile(dir)
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return 0, false
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // empty for a zombie
	if err != nil {
		return 0, false
	}
	return pid, bytes.Contains(cmdline, []byte("\x00-pidfile\x00"+path+"\x00"))
}
