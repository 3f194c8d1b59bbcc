package check

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/katadirect/katadirect/internal/accel"
	"github.com/katadirect/katadirect/internal/guestimage"
	"github.com/katadirect/katadirect/pkg/runtime/config"
)

var qemuVersion = regexp.MustCompile(`version (\d+)\.(\d+)`)

// checkQEMU asks the hypervisor for its version.
func checkQEMU(ctx context.Context, o Options, c config.Config) []Finding {
	const name, advice = "qemu", "apt-get install qemu-system-x86, or set path in [hypervisor.qemu] of configuration.toml"
	program, err := exec.LookPath(c.Hypervisor.Path)
	if err != nil {
		return []Finding{failure(name, advice, "%v", err)}
	}
	answer, err := o.versionOf(ctx, program)
	if err != nil {
		return []Finding{failure(name, advice, "%v", err)}
	}
	version := qemuVersion.FindStringSubmatch(answer)
	if version == nil {
		return []Finding{failure(name, advice, "%s is not QEMU: it says %q", program, answer)}
	}
	if len(version[1]) == 1 && version[1] < "7" {
		return []Finding{warning(name, "upgrade QEMU", "%s has version %s.%s; versions before 7 were never tried", program, version[1], version[2])}
	}
	return []Finding{ok(name, "%s, version %s.%s", program, version[1], version[2])}
}

// checkShare asks the file share's program for its version.
func checkShare(ctx context.Context, o Options, c config.Config) []Finding {
	const name = "virtiofsd"
	const advice = "apt-get install qemu-system-common (Debian 12) or virtiofsd (later), or set virtio_fs_daemon in [hypervisor.qemu] of configuration.toml"
	if c.Hypervisor.SharedFS == config.SharedNone {
		return []Finding{ok(name, "not needed: shared_fs = %q", config.SharedNone)}
	}
	program, err := exec.LookPath(c.Hypervisor.VirtiofsDaemon)
	if err != nil {
		return []Finding{failure(name, advice, "%v", err)}
	}
	if _, err := o.versionOf(ctx, program); err != nil {
		return []Finding{failure(name, advice, "%v", err)}
	}
	return []Finding{ok(name, "%s", program)}
}

// checkImage looks at the guest's kernel and initrd, and whether the image is whole and up to date.
func checkImage(_ context.Context, o Options, c config.Config) []Finding {
	const name = "guest image"
	advice := fmt.Sprintf("run: katadirect guest build --dir %s", filepath.Dir(c.Hypervisor.Kernel))
	for _, file := range []string{c.Hypervisor.Kernel, c.Hypervisor.Initrd} {
		info, err := os.Stat(file)
		if err != nil {
			return []Finding{failure(name, advice, "%v", err)}
		}
		if !info.Mode().IsRegular() || info.Size() == 0 {
			return []Finding{failure(name, advice, "%s is not a file, or empty", file)}
		}
	}
	dir := filepath.Dir(c.Hypervisor.Kernel)
	if _, err := os.Stat(filepath.Join(dir, "image.json")); errors.Is(err, fs.ErrNotExist) {
		return []Finding{warning(name, advice+", or ignore this if the image is Kata's",
			"%s was not made by katadirect: online resize and safe formatting need its agent", c.Hypervisor.Kernel)}
	}
	image, err := guestimage.Open(dir)
	if err != nil {
		return []Finding{failure(name, advice, "%v", err)}
	}
	if o.Agent != "" {
		if sum, err := fileSum(o.Agent); err == nil && sum != image.Manifest.Agent {
			return []Finding{warning(name, advice, "the image in %s holds another agent than %s", dir, o.Agent)}
		}
	}
	return []Finding{ok(name, "%s, kernel %s", dir, image.Manifest.Kernel)}
}

// checkAccel finds out how fast machines are.
func checkAccel(ctx context.Context, o Options, c config.Config) []Finding {
	const name = "accelerator"
	const advice = "use a host with virtualisation, or turn on nested virtualisation for it; then reboot, or remove /run/katadirect/accel.json"
	if c.Direct.Accel != "" {
		return []Finding{ok(name, "the configuration says %s", c.Direct.Accel)}
	}
	for _, file := range []string{c.Hypervisor.Path, c.Hypervisor.Kernel, c.Hypervisor.Initrd} {
		if _, err := os.Stat(file); err != nil {
			return []Finding{warning(name, "see the other findings, then check again", "was not tried: %v", err)}
		}
	}
	result, err := o.Accel(ctx, c)
	if err != nil {
		return []Finding{warning(name, "see the other findings", "could not be found out: %v", err)}
	}
	if result.Accel != accel.KVM {
		reason := strings.Join(strings.Fields(result.Reason), " ") // QEMU says it in several lines
		return []Finding{warning(name, advice, "machines are emulated, several times slower: %s", reason)}
	}
	return []Finding{ok(name, "machines run on KVM: %s", result.Reason)}
}

// checkVsock says which channel the agent will use; both work.
func checkVsock(_ context.Context, o Options, _ config.Config) []Finding {
	const name = "agent channel"
	device, err := os.OpenFile(o.VhostVsock, os.O_RDWR, 0)
	if err != nil {
		return []Finding{ok(name, "virtio-serial, as this host has no %s", o.VhostVsock)}
	}
	if err := device.Close(); err != nil {
		return []Finding{warning(name, "see the host's log", "%v", err)}
	}
	return []Finding{ok(name, "vsock")}
}

func (o Options) versionOf(ctx context.Context, program string) (string, error) {
	patience := cmp.Or(o.patience, toolTimeout)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "--version")
	cmd.WaitDelay = patience
	answer, err := cmd.CombinedOutput()
	first, _, _ := bytes.Cut(answer, []byte("\n"))
	if err != nil {
		return "", fmt.Errorf("%s --version: %w: %s", program, err, first)
	}
	return string(first), nil
}

// executable says what keeps a file from being run.
func executable(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return fmt.Errorf("%s is not a program", path)
	}
	return nil
}

func fileSum(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
