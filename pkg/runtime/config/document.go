package config

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
)

// document is the file as it is written. A pointer tells "not set" from a zero, which for some keys means much.
type document struct {
	Hypervisor map[string]hypervisorTable `toml:"hypervisor"`
	Agent      map[string]agentTable      `toml:"agent"`
	Runtime    runtimeTable               `toml:"runtime"`
	Direct     directTable                `toml:"katadirect"`
}

type hypervisorTable struct {
	Path              *string   `toml:"path"`
	ValidPaths        *[]string `toml:"valid_hypervisor_paths"`
	Kernel            *string   `toml:"kernel"`
	Initrd            *string   `toml:"initrd"`
	Image             *string   `toml:"image"`
	MachineType       *string   `toml:"machine_type"`
	KernelParams      *string   `toml:"kernel_params"`
	EnableAnnotations *[]string `toml:"enable_annotations"`
	DefaultVCPUs      any       `toml:"default_vcpus"` // integer, or since Kata 3 a fraction
	DefaultMemory     *int      `toml:"default_memory"`
	DefaultMaxVCPUs   *int      `toml:"default_maxvcpus"`
	DefaultMaxMemory  *int      `toml:"default_maxmemory"`
	MemorySlots       *int      `toml:"memory_slots"`
	DefaultBridges    *int      `toml:"default_bridges"`
	SharedFS          *string   `toml:"shared_fs"`
	VirtiofsDaemon    *string   `toml:"virtio_fs_daemon"`
	ValidDaemons      *[]string `toml:"valid_virtio_fs_daemon_paths"`
	VirtiofsCache     *string   `toml:"virtio_fs_cache"`
	VirtiofsExtraArgs *[]string `toml:"virtio_fs_extra_args"`
	DisableBlock      *bool     `toml:"disable_block_device_use"`
	BlockDriver       *string   `toml:"block_device_driver"`
	BlockAIO          *string   `toml:"block_device_aio"`
	BlockCacheSet     *bool     `toml:"block_device_cache_set"`
	BlockCacheDirect  *bool     `toml:"block_device_cache_direct"`
	BlockCacheNoFlush *bool     `toml:"block_device_cache_noflush"`
	EnableIOThreads   *bool     `toml:"enable_iothreads"`
	EnableDebug       *bool     `toml:"enable_debug"`
	Confidential      *bool     `toml:"confidential_guest"`
	SNP               *bool     `toml:"sev_snp_guest"`
}

type agentTable struct {
	EnableDebug   *bool     `toml:"enable_debug"`
	DialTimeout   *int      `toml:"dial_timeout"`
	DebugConsole  *bool     `toml:"debug_console_enabled"`
	KernelModules *[]string `toml:"kernel_modules"`
}

type runtimeTable struct {
	EnableDebug            *bool     `toml:"enable_debug"`
	CreateContainerTimeout *int      `toml:"create_container_timeout"`
	DisableGuestSeccomp    *bool     `toml:"disable_guest_seccomp"`
	NetworkModel           *string   `toml:"internetworking_model"`
	DisableNewNetNS        *bool     `toml:"disable_new_netns"`
	StaticResources        *bool     `toml:"static_sandbox_resource_mgmt"`
	SandboxCgroupOnly      *bool     `toml:"sandbox_cgroup_only"`
	EmptyDirMode           *string   `toml:"emptydir_mode"`
	BindMounts             *[]string `toml:"sandbox_bind_mounts"`
	EnablePprof            *bool     `toml:"enable_pprof"`
}

type directTable struct {
	Accel *string `toml:"accel"`
}

// config puts the document over the defaults and checks what can be checked without looking at the host.
func (d *document) config() (Config, error) {
	c := Default()
	h, ok := d.Hypervisor["qemu"]
	if !ok && len(d.Hypervisor) > 0 {
		return Config{}, errors.New("no table [hypervisor.qemu]: QEMU is the only hypervisor here")
	}
	if err := h.apply(&c.Hypervisor); err != nil {
		return Config{}, err
	}
	if machine := orElse(h.MachineType, ""); machine != "" && machine != "q35" {
		c.Notices = append(c.Notices, fmt.Sprintf("machine_type = %q has no effect: the machine is always q35", machine))
	}
	if c.Hypervisor.BlockCache && c.Hypervisor.BlockCacheNoFlush {
		c.Notices = append(c.Notices, "block_device_cache_noflush = true: what pods have synced to their volumes is lost if this host fails")
	}
	if only := d.Runtime.SandboxCgroupOnly; only != nil && *only {
		c.Notices = append(c.Notices, "sandbox_cgroup_only = true has no effect: shim and QEMU stay in containerd's cgroup, and are "+
			"not held to the pod's limits on the host")
	}
	if err := d.Runtime.apply(&c.Runtime); err != nil {
		return Config{}, err
	}
	if err := d.Agent["kata"].apply(&c.Agent); err != nil {
		return Config{}, err
	}
	set(&c.Direct.Accel, d.Direct.Accel)
	if err := oneOf("accel", c.Direct.Accel, "", "kvm", "tcg"); err != nil {
		return Config{}, err
	}
	return c, nil
}

func (t hypervisorTable) apply(h *Hypervisor) error {
	set(&h.Path, t.Path)
	set(&h.ValidPaths, t.ValidPaths)
	set(&h.ValidDaemons, t.ValidDaemons)
	set(&h.Kernel, t.Kernel)
	set(&h.KernelParams, t.KernelParams)
	set(&h.EnableAnnotations, t.EnableAnnotations)
	if t.DefaultMemory != nil && *t.DefaultMemory != 0 { // 0 is the default, as in Kata
		h.MemoryMiB = *t.DefaultMemory
	}
	set(&h.MaxVCPUs, t.DefaultMaxVCPUs)
	set(&h.MaxMemoryMiB, t.DefaultMaxMemory)
	set(&h.MemorySlots, t.MemorySlots)
	set(&h.BlockCache, t.BlockCacheSet)
	set(&h.BlockCacheDirect, t.BlockCacheDirect)
	set(&h.BlockCacheNoFlush, t.BlockCacheNoFlush)
	set(&h.IOThreads, t.EnableIOThreads)
	set(&h.SharedFS, t.SharedFS)
	set(&h.VirtiofsDaemon, t.VirtiofsDaemon)
	set(&h.VirtiofsCache, t.VirtiofsCache)
	set(&h.VirtiofsArgs, t.VirtiofsExtraArgs)
	set(&h.DisableBlock, t.DisableBlock)
	set(&h.BlockDriver, t.BlockDriver)
	set(&h.BlockAIO, t.BlockAIO)
	set(&h.Debug, t.EnableDebug)
	if h.BlockDriver == "virtio-blk-pci" { // the same thing as Kata's Rust runtime spells it
		h.BlockDriver = BlockVirtioBlk
	}
	return errors.Join(
		t.bootFiles(h),
		t.vcpus(h),
		oneOf("block_device_driver", h.BlockDriver, BlockVirtioBlk, BlockVirtioSCSI),
		oneOf("block_device_aio", h.BlockAIO, "threads", "native", "io_uring"),
		oneOf("virtio_fs_cache", h.VirtiofsCache, shareCaches...),
		t.share(h),
		atLeast("default_maxvcpus", h.MaxVCPUs, 0),
		atLeast("default_maxmemory", h.MaxMemoryMiB, 0),
		atLeast("memory_slots", h.MemorySlots, 0),
		atLeast("default_memory", h.MemoryMiB, 64),
		t.bridges(h),
		absolute("path", h.Path),
		absolute("kernel", h.Kernel),
		absolute("initrd", h.Initrd),
		absolute("virtio_fs_daemon", h.VirtiofsDaemon),
		patterns("enable_annotations", h.EnableAnnotations),
		globs("valid_hypervisor_paths", h.ValidPaths),
		globs("valid_virtio_fs_daemon_paths", h.ValidDaemons),
	)
}

// share refuses what would leave a pod without its root file systems.
func (t hypervisorTable) share(h *Hypervisor) error {
	if h.SharedFS == SharedNone && h.DisableBlock {
		return wrong("shared_fs", "shared_fs = %q needs disks, which disable_block_device_use forbids", h.SharedFS)
	}
	return oneOf("shared_fs", h.SharedFS, SharedVirtiofs, SharedNone)
}

// bridges takes what Kata takes: 0 is the default, more than a machine can have is what it can have.
func (t hypervisorTable) bridges(h *Hypervisor) error {
	const most = 5
	if t.DefaultBridges != nil && *t.DefaultBridges != 0 {
		h.Bridges = min(*t.DefaultBridges, most)
	}
	return atLeast("default_bridges", h.Bridges, 1)
}

// refuse finds what a pod must not be made without.
func (d *document) refuse() error {
	h := d.Hypervisor["qemu"]
	for i, set := range []*bool{h.Confidential, h.SNP} {
		if set != nil && *set {
			key := strings.TrimPrefix(refused[i], "hypervisor.qemu.")
			return wrong(key, "%s = true: machines here are not confidential; the host can read all of a guest", key)
		}
	}
	return nil
}

// bootFiles takes the initrd. Kata's other way, a disk image, cannot be booted here, and a file that names only an
// image must not silently boot our own initrd with a kernel of Kata's.
func (t hypervisorTable) bootFiles(h *Hypervisor) error {
	initrd, image := orElse(t.Initrd, ""), orElse(t.Image, "")
	if initrd == "" && image != "" {
		return wrong("image", "image = %q cannot be booted: set initrd (katadirect guest build makes one)", image)
	}
	if initrd != "" {
		h.Initrd = initrd
	}
	return nil
}

// vcpus rounds a fraction up, and takes 0 and below as Kata does: 0 is the default, less is every processor.
func (t hypervisorTable) vcpus(h *Hypervisor) error {
	var n float64
	switch v := t.DefaultVCPUs.(type) {
	case nil:
		return nil
	case int64:
		n = float64(v)
	case float64:
		n = v
	default:
		return wrong("default_vcpus", "default_vcpus = %v is not a number", v)
	}
	switch {
	case math.IsNaN(n) || n > 1024:
		return wrong("default_vcpus", "default_vcpus = %v is not a number of processors", n)
	case n < 0:
		h.VCPUs = runtime.NumCPU()
	case n > 0:
		h.VCPUs = int(math.Ceil(n))
	}
	return nil
}

func (t runtimeTable) apply(r *Runtime) error {
	set(&r.Debug, t.EnableDebug)
	set(&r.DisableGuestSeccomp, t.DisableGuestSeccomp)
	set(&r.NetworkModel, t.NetworkModel)
	set(&r.DisableNewNetNS, t.DisableNewNetNS)
	set(&r.StaticResources, t.StaticResources)
	set(&r.EmptyDirMode, t.EmptyDirMode)
	set(&r.BindMounts, t.BindMounts)
	set(&r.Pprof, t.EnablePprof)
	err := errors.Join(
		oneOf("internetworking_model", r.NetworkModel, networkModels...),
		oneOf("emptydir_mode", r.EmptyDirMode, EmptyDirShared, EmptyDirBlock, EmptyDirEncrypted),
		absolute("sandbox_bind_mounts", r.BindMounts...),
		r.network(),
	)
	if err != nil {
		return err
	}
	return seconds("create_container_timeout", t.CreateContainerTimeout, &r.CreateContainerTimeout)
}

// network refuses what cannot go together, as Kata does.
func (r *Runtime) network() error {
	if r.DisableNewNetNS && r.NetworkModel != NetworkNone {
		return wrong("disable_new_netns", "disable_new_netns = true goes with internetworking_model = %q only, not with %q", NetworkNone, r.NetworkModel)
	}
	return nil
}

func (t agentTable) apply(a *Agent) error {
	set(&a.Debug, t.EnableDebug)
	set(&a.DebugConsole, t.DebugConsole)
	set(&a.KernelModules, t.KernelModules)
	return seconds("dial_timeout", t.DialTimeout, &a.DialTimeout)
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

func orElse(s *string, otherwise string) string {
	if s == nil {
		return otherwise
	}
	return *s
}
