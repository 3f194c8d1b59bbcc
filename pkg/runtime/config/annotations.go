package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Prefixes of the annotations by which a pod overrides the file.
const (
	annotationPrefix     = "io.katacontainers.config."
	annotationHypervisor = annotationPrefix + "hypervisor."
)

// annotationConfigPath lets a pod, with Kata, choose any file of the host as its configuration. Here it is refused:
// whoever may make pods could choose the programs that run on the host as root.
const annotationConfigPath = "io.katacontainers.config_path"

// ErrAnnotation is in the chain of every error that a pod's annotation causes.
var ErrAnnotation = errors.New("annotation of the pod")

// setting takes the value of an annotation.
type setting func(c *Config, value string) error

// annotations are those that have an effect, without annotationPrefix.
var annotations = map[string]setting{
	"hypervisor.path":                       program(func(c *Config) (*string, []string) { return &c.Hypervisor.Path, c.Hypervisor.ValidPaths }),
	"hypervisor.kernel":                     path(func(c *Config) *string { return &c.Hypervisor.Kernel }),
	"hypervisor.initrd":                     path(func(c *Config) *string { return &c.Hypervisor.Initrd }),
	"hypervisor.kernel_params":              kernelParams,
	"hypervisor.default_vcpus":              vcpus,
	"hypervisor.default_max_vcpus":          number(0, func(c *Config) *int { return &c.Hypervisor.MaxVCPUs }),
	"hypervisor.default_memory":             number(64, func(c *Config) *int { return &c.Hypervisor.MemoryMiB }),
	"hypervisor.memory_slots":               number(0, func(c *Config) *int { return &c.Hypervisor.MemorySlots }),
	"hypervisor.disable_block_device_use":   truth(func(c *Config) *bool { return &c.Hypervisor.DisableBlock }),
	"hypervisor.block_device_driver":        blockDriver,
	"hypervisor.block_device_aio":           choice(func(c *Config) *string { return &c.Hypervisor.BlockAIO }, "threads", "native", "io_uring"),
	"hypervisor.block_device_cache_set":     truth(func(c *Config) *bool { return &c.Hypervisor.BlockCache }),
	"hypervisor.block_device_cache_direct":  truth(func(c *Config) *bool { return &c.Hypervisor.BlockCacheDirect }),
	"hypervisor.block_device_cache_noflush": truth(func(c *Config) *bool { return &c.Hypervisor.BlockCacheNoFlush }),
	"hypervisor.enable_iothreads":           truth(func(c *Config) *bool { return &c.Hypervisor.IOThreads }),
	"hypervisor.shared_fs":                  choice(func(c *Config) *string { return &c.Hypervisor.SharedFS }, SharedVirtiofs, SharedNone),
	"hypervisor.virtio_fs_daemon": program(func(c *Config) (*string, []string) {
		return &c.Hypervisor.VirtiofsDaemon, c.Hypervisor.ValidDaemons
	}),
	"hypervisor.virtio_fs_cache":      choice(func(c *Config) *string { return &c.Hypervisor.VirtiofsCache }, shareCaches...),
	"hypervisor.virtio_fs_extra_args": virtiofsArgs,

	"runtime.create_container_timeout": createTimeout,
	"runtime.disable_guest_seccomp":    truth(func(c *Config) *bool { return &c.Runtime.DisableGuestSeccomp }),
	"runtime.internetworking_model":    choice(func(c *Config) *string { return &c.Runtime.NetworkModel }, networkModels...),
	"runtime.disable_new_netns":        truth(func(c *Config) *bool { return &c.Runtime.DisableNewNetNS }),
	"runtime.enable_pprof":             truth(func(c *Config) *bool { return &c.Runtime.Pprof }),

	"agent.kernel_modules":      kernelModules,
	"agent.container_pipe_size": number(0, func(c *Config) *int { return &c.Agent.ContainerPipeBytes }),
	"agent.policy": func(*Config, string) error {
		return errors.New("agent policies are not supported, and a pod that asks for one must not run without")
	},
}

// WithAnnotations returns c with what the pod's annotations override. As in Kata a hypervisor annotation that
// enable_annotations does not allow is an error, because the pod would otherwise run with less than it asked for;
// runtime and agent annotations are always allowed. Allowed ones that have no effect here are named in one warning.
func (c Config) WithAnnotations(ofPod map[string]string, log *slog.Logger) (Config, error) {
	keys := make([]string, 0, len(ofPod))
	for k := range ofPod {
		keys = append(keys, k)
	}
	slices.Sort(keys)

	var ignored []string
	for _, key := range keys {
		known, err := c.annotate(key, ofPod[key])
		if err != nil {
			return Config{}, fmt.Errorf("%w %s: %w", ErrAnnotation, key, err)
		}
		if !known {
			ignored = append(ignored, key)
		}
	}
	if err := c.Runtime.network(); err != nil {
		return Config{}, fmt.Errorf("%w: %w", ErrAnnotation, err)
	}
	if len(ignored) > 0 {
		log.Warn("annotations that have no effect here", "annotations", strings.Join(ignored, " "))
	}
	return c, nil
}

// annotate applies one annotation; known is false for one that should have had an effect but has none.
func (c *Config) annotate(key, value string) (known bool, err error) {
	if key == annotationConfigPath {
		return false, errors.New("a pod cannot choose its configuration here; make a RuntimeClass whose handler names the file")
	}
	name, ours := strings.CutPrefix(key, annotationPrefix)
	if !ours {
		return true, nil
	}
	if short, ok := strings.CutPrefix(key, annotationHypervisor); ok {
		if err := c.allowed(short); err != nil {
			return false, err
		}
	}
	set := annotations[name]
	if set == nil {
		return false, nil
	}
	return true, set(c, value)
}

func (c *Config) allowed(name string) error {
	for _, pattern := range c.Hypervisor.EnableAnnotations {
		matched, err := regexp.MatchString(pattern, name)
		if err != nil {
			return fmt.Errorf("enable_annotations: %w", err)
		}
		if matched {
			return nil
		}
	}
	return errors.New("not allowed by enable_annotations in the configuration")
}

func truth(field func(*Config) *bool) setting {
	return func(c *Config, value string) (err error) {
		*field(c), err = strconv.ParseBool(value)
		return err
	}
}

func number(least int, field func(*Config) *int) setting {
	return func(c *Config, value string) error {
		n, err := strconv.ParseInt(value, 10, 32)
		if err != nil {
			return err
		}
		if n < int64(least) {
			return fmt.Errorf("%d is below %d", n, least)
		}
		*field(c) = int(n)
		return nil
	}
}

func choice(field func(*Config) *string, allowed ...string) setting {
	return func(c *Config, value string) error {
		if !slices.Contains(allowed, value) {
			return fmt.Errorf("%q is not supported: it may be %q", value, allowed)
		}
		*field(c) = value
		return nil
	}
}

// path takes an absolute path; what may be chosen, enable_annotations says.
func path(field func(*Config) *string) setting {
	return func(c *Config, value string) error {
		if !filepath.IsAbs(value) || filepath.Clean(value) != value {
			return fmt.Errorf("%q is not an absolute path in its plain form", value)
		}
		*field(c) = value
		return nil
	}
}

// program takes the path of a program of the host, which one of the patterns must fit: it will run as root.
func program(field func(*Config) (*string, []string)) setting {
	return func(c *Config, value string) error {
		to, allowed := field(c)
		if err := path(func(*Config) *string { return new(string) })(c, value); err != nil {
			return err
		}
		for _, pattern := range allowed {
			if fits, _ := filepath.Match(pattern, value); fits {
				*to = value
				return nil
			}
		}
		return fmt.Errorf("%s fits none of the paths that the configuration allows: %q", value, allowed)
	}
}

func kernelParams(c *Config, value string) error {
	if strings.ContainsAny(value, "\x00\n") {
		return errors.New("kernel parameters are words on one line")
	}
	c.Hypervisor.KernelParams = strings.TrimSpace(c.Hypervisor.KernelParams + " " + value)
	return nil
}

func vcpus(c *Config, value string) error {
	n, err := strconv.ParseFloat(value, 64)
	if err != nil || !(n > 0 && n <= 1024) {
		return fmt.Errorf("%q is not a number of processors", value)
	}
	c.Hypervisor.VCPUs = int(math.Ceil(n))
	return nil
}

func blockDriver(c *Config, value string) error {
	if value == "virtio-blk-pci" { // as Kata's Rust runtime spells it
		value = BlockVirtioBlk
	}
	return choice(func(c *Config) *string { return &c.Hypervisor.BlockDriver }, BlockVirtioBlk, BlockVirtioSCSI)(c, value)
}

// podVirtiofsArgs are the arguments of virtiofsd that a pod may give. What is shared, with whom, and how far the program
// is locked in, is not its to say: the program runs as root on the host.
var podVirtiofsArgs = regexp.MustCompile(`^(-d|--(thread-pool-size|log-level|inode-file-handles|rlimit-nofile)=[a-z0-9]+|` +
	`--(announce-submounts|xattr|posix-acl|security-label|writeback|allow-direct-io|no-killpriv-v2|no-readdirplus|preserve-noatime|syslog))$`)

// virtiofsArgs takes a list as JSON, which replaces the file's, as in Kata.
func virtiofsArgs(c *Config, value string) error {
	var args []string
	if err := json.Unmarshal([]byte(value), &args); err != nil {
		return fmt.Errorf("it must be a list of strings as JSON: %w", err)
	}
	for _, arg := range args {
		if !podVirtiofsArgs.MatchString(arg) {
			return fmt.Errorf("%q is not an argument that a pod may give; put it into the configuration, or into that of another RuntimeClass", arg)
		}
	}
	c.Hypervisor.VirtiofsArgs = args
	return nil
}

func createTimeout(c *Config, value string) error {
	n, err := strconv.ParseUint(value, 10, 31)
	if err != nil {
		return err
	}
	if n > 0 {
		c.Runtime.CreateContainerTimeout = time.Duration(n) * time.Second
	}
	return nil
}

// kernelModules takes modules with their parameters, with semicolons between them.
func kernelModules(c *Config, value string) error {
	c.Agent.KernelModules = nil
	for module := range strings.SplitSeq(value, ";") {
		if module = strings.TrimSpace(module); module != "" {
			c.Agent.KernelModules = append(c.Agent.KernelModules, module)
		}
	}
	return nil
}
