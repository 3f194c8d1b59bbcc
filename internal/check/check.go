// Package check finds out whether a host can run pods with direct volumes, and says what to do where it cannot. It is
// called by `katadirect check`.
//
// Each check looks at one thing, as the shim or the CSI driver would use it, and returns findings; none of them fails.
// Nothing here may change the host: installing, configuring and repairing is for the person who reads the findings.
// The one trace it leaves is the remembered outcome of the KVM trial, which the shim's first machine would leave too.
package check

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/katadirect/katadirect/internal/accel"
	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/config"
	"github.com/katadirect/katadirect/pkg/runtime/qemu"
)

// Severity says how much a finding matters.
type Severity string

// Severities.
const (
	OK      Severity = "ok"      // as it should be
	Warning Severity = "warning" // pods run, but slower, or less safely, or not all of them
	Error   Severity = "error"   // pods with direct volumes will not run
)

// Finding is what one check has seen. Its JSON is read by programs: fields are added, never renamed.
type Finding struct {
	// Check names what was looked at, e.g. "qemu".
	Check    string   `json:"check"`
	Severity Severity `json:"severity"`
	// Message says what is, in a sentence.
	Message string `json:"message"`
	// Advice says what to do about it; empty if Severity is OK.
	Advice string `json:"advice,omitempty"`
}

// Report is what Run has found.
type Report struct {
	Usable   bool      `json:"usable"`
	Findings []Finding `json:"findings"`
}

// Options say where to look. The zero value is the real host.
type Options struct {
	// ConfigPath is Kata's configuration.toml. "" means the one that containerd's configuration names, and then the
	// one that Kata's search order finds.
	ConfigPath string
	// ContainerdConfig is containerd's configuration. "" is /etc/containerd/config.toml.
	ContainerdConfig string
	// ShimDirs are where containerd looks for shims. Empty means $PATH and the usual folders.
	ShimDirs []string
	// RecordRoot is the folder of the records. "" is directvolume.DefaultRoot.
	RecordRoot string
	// Agent is the guest agent that the image should hold. "" means that it is not compared.
	Agent string
	// VhostVsock is the host's vsock device. "" is /dev/vhost-vsock.
	VhostVsock string
	// TunDevice is the host's tun device, CRIODir CRI-O's configuration, CgroupRoot where cgroups are. "" are the usual ones.
	TunDevice, CRIODir, CgroupRoot string
	// KernelRelease is the kernel's version; "" is the running one.
	KernelRelease string
	// Accel finds out which accelerator machines can use. nil boots a machine once per boot of the host.
	Accel func(context.Context, config.Config) (accel.Result, error)
	// patience is how long a program may take to say its version; 0 is toolTimeout.
	patience time.Duration
}

// toolTimeout bounds each program that is asked for its version.
const toolTimeout = 5 * time.Second

// Run looks at everything. It returns an error only if ctx ends.
func Run(ctx context.Context, o Options) (Report, error) {
	o = o.withDefaults()
	var findings []Finding
	found, runtimeConfig := checkContainerd(o)
	findings = append(findings, found...)
	if runtimeConfig == "" {
		runtimeConfig = crioConfigPath(o)
	}
	if o.ConfigPath == "" {
		o.ConfigPath = runtimeConfig
	}
	found, c := checkConfig(o.ConfigPath)
	findings = append(findings, found...)
	for _, check := range []func(context.Context, Options, config.Config) []Finding{
		checkCRIO, checkChoices, checkUser, checkKernel, checkCgroups, checkQEMU, checkShare, checkImage, checkAccel, checkVsock,
		checkNetwork, checkRecords,
	} {
		if err := context.Cause(ctx); err != nil {
			return Report{}, err
		}
		findings = append(findings, check(ctx, o, c)...)
	}
	if err := context.Cause(ctx); err != nil {
		return Report{}, err // what the last checks saw may be its doing
	}
	report := Report{Usable: true, Findings: findings}
	for _, f := range findings {
		report.Usable = report.Usable && f.Severity != Error
	}
	return report, nil
}

func (o Options) withDefaults() Options {
	for field, value := range map[*string]string{
		&o.ContainerdConfig: "/etc/containerd/config.toml",
		&o.RecordRoot:       directvolume.DefaultRoot,
		&o.VhostVsock:       "/dev/vhost-vsock",
		&o.TunDevice:        "/dev/net/tun",
		&o.CRIODir:          "/etc/crio",
		&o.CgroupRoot:       "/sys/fs/cgroup",
		&o.KernelRelease:    kernelRelease(),
	} {
		if *field == "" {
			*field = value
		}
	}
	if len(o.ShimDirs) == 0 {
		o.ShimDirs = shimDirs(os.Getenv("PATH"))
	}
	if o.Accel == nil {
		o.Accel = tryKVM
	}
	return o
}

// tryKVM boots a machine as the shim would.
func tryKVM(ctx context.Context, c config.Config) (accel.Result, error) {
	return accel.Detect(ctx, qemu.KVMTrial(qemu.Config{
		QEMU: c.Hypervisor.Path, Kernel: c.Hypervisor.Kernel, Initrd: c.Hypervisor.Initrd,
	}))
}

func ok(check, format string, args ...any) Finding {
	return Finding{Check: check, Severity: OK, Message: fmt.Sprintf(format, args...)}
}

func warning(check, advice, format string, args ...any) Finding {
	return Finding{Check: check, Severity: Warning, Message: fmt.Sprintf(format, args...), Advice: advice}
}

func failure(check, advice, format string, args ...any) Finding {
	return Finding{Check: check, Severity: Error, Message: fmt.Sprintf(format, args...), Advice: advice}
}

// checkUser: what others cannot see cannot be judged.
func checkUser(context.Context, Options, config.Config) []Finding {
	if os.Geteuid() != 0 {
		return []Finding{failure("user", "run it with sudo, or as root", "this was not run as root, so not everything could be seen")}
	}
	return nil
}
