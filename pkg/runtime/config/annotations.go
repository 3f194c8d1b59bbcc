package config

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Prefixes of the annotations by which a pod overrides the file.
const (
	annotationHypervisor = "io.katacontainers.config.hypervisor."
	annotationRuntime    = "io.katacontainers.config.runtime."
	annotationAgent      = "io.katacontainers.config.agent."
)

// ErrAnnotation is in the chain of every error that a pod's annotation causes.
var ErrAnnotation = errors.New("annotation of the pod")

// WithAnnotations returns c with what the pod's annotations override. As in Kata a hypervisor annotation that
// enable_annotations does not allow is an error, because the pod would otherwise run with less than it asked for;
// runtime annotations are always allowed. Allowed ones that have no effect here are named in one warning.
func (c Config) WithAnnotations(annotations map[string]string, log *slog.Logger) (Config, error) {
	keys := make([]string, 0, len(annotations))
	for k := range annotations {
		keys = append(keys, k)
	}
	slices.Sort(keys)

	var ignored []string
	for _, key := range keys {
		known, err := c.annotate(key, annotations[key])
		if err != nil {
			return Config{}, fmt.Errorf("%w %s: %w", ErrAnnotation, key, err)
		}
		if !known {
			ignored = append(ignored, key)
		}
	}
	if len(ignored) > 0 {
		log.Warn("annotations that have no effect here", "annotations", strings.Join(ignored, " "))
	}
	return c, nil
}

// annotate applies one annotation; known is false for one that should have had an effect but has none.
func (c *Config) annotate(key, value string) (known bool, err error) {
	if name, ok := strings.CutPrefix(key, annotationHypervisor); ok {
		if err := c.allowed(name); err != nil {
			return false, err
		}
		return c.Hypervisor.annotate(name, value)
	}
	if name, ok := strings.CutPrefix(key, annotationRuntime); ok {
		return c.Runtime.annotate(name, value)
	}
	return !strings.HasPrefix(key, annotationAgent), nil
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

func (h *Hypervisor) annotate(name, value string) (known bool, err error) {
	switch name {
	case "default_memory":
		h.MemoryMiB, err = strconv.Atoi(value)
		return true, errors.Join(err, atLeast(name, h.MemoryMiB, 64))
	case "default_vcpus":
		n, err := strconv.ParseFloat(value, 64)
		if err != nil || !(n > 0 && n <= 1024) {
			return true, fmt.Errorf("%q is not a number of processors", value)
		}
		h.VCPUs = int(math.Ceil(n))
		return true, nil
	case "kernel_params":
		h.KernelParams = strings.TrimSpace(h.KernelParams + " " + value)
		return true, nil
	}
	return false, nil
}

func (r *Runtime) annotate(name, value string) (known bool, err error) {
	switch name {
	case "create_container_timeout":
		n, err := strconv.ParseUint(value, 10, 31)
		if err != nil {
			return true, err
		}
		if n > 0 {
			r.CreateContainerTimeout = time.Duration(n) * time.Second
		}
		return true, nil
	case "disable_guest_seccomp":
		r.DisableGuestSeccomp, err = strconv.ParseBool(value)
		return true, err
	}
	return false, nil
}
