package config

import (
	"slices"
	"strings"
)

// refused are keys of Kata's that promise a protection which a machine here does not have. A file that sets one of them
// to true is refused: a pod must not run with less than it was promised.
var refused = []string{
	"hypervisor.qemu.confidential_guest",
	"hypervisor.qemu.sev_snp_guest",
}

// unused are Kata's other keys that have no effect here, and need none: what they set does not exist, or is always as it
// is wanted. They stand in Kata's own file on every host, and warning about them would hide the warnings that matter.
var unused = []string{
	"hypervisor.qemu.rootfs_type", "hypervisor.qemu.kernel_verity_params", "hypervisor.qemu.firmware", "hypervisor.qemu.firmware_volume",
	"hypervisor.qemu.machine_accelerators", "hypervisor.qemu.seccompsandbox", "hypervisor.qemu.cpu_features",
	"hypervisor.qemu.memory_offset", "hypervisor.qemu.enable_virtio_mem", "hypervisor.qemu.reclaim_guest_freed_memory",
	"hypervisor.qemu.virtio_fs_cache_size", "hypervisor.qemu.virtio_fs_queue_size", "hypervisor.qemu.virtio_fs_inode_file_handles",
	"hypervisor.qemu.indep_iothreads", "hypervisor.qemu.enable_vhost_user_store", "hypervisor.qemu.vhost_user_store_path",
	"hypervisor.qemu.valid_vhost_user_store_paths", "hypervisor.qemu.vhost_user_reconnect_timeout_sec",
	"hypervisor.qemu.file_mem_backend", "hypervisor.qemu.valid_file_mem_backends", "hypervisor.qemu.pflashes",
	"hypervisor.qemu.extra_monitor_socket", "hypervisor.qemu.disable_nesting_checks", "hypervisor.qemu.msize_9p",
	"hypervisor.qemu.disable_image_nvdimm", "hypervisor.qemu.hot_plug_vfio", "hypervisor.qemu.cold_plug_vfio",
	"hypervisor.qemu.pcie_root_port", "hypervisor.qemu.pcie_switch_port", "hypervisor.qemu.disable_vhost_net",
	"hypervisor.qemu.entropy_source", "hypervisor.qemu.valid_entropy_sources",
	"hypervisor.qemu.use_legacy_serial", "hypervisor.qemu.disable_selinux", "hypervisor.qemu.disable_guest_selinux",
	"hypervisor.qemu.blk_logical_sector_size", "hypervisor.qemu.blk_physical_sector_size",
	"factory", // and all in it
	"agent.kata.enable_tracing", "agent.kata.cdh_api_timeout", "agent.kata.launch_process_timeout", "agent.kata.mem_agent",
	"runtime.enable_tracing", "runtime.jaeger_endpoint", "runtime.jaeger_user", "runtime.jaeger_password",
	"runtime.disable_guest_empty_dir", "runtime.guest_selinux_label", "runtime.vfio_mode", "runtime.experimental", "runtime.dan_conf",
	"runtime.kubelet_root_dir", "runtime.pod_resource_api_sock",
}

// isUnused says whether a key is one of Kata's that need no warning.
func isUnused(key string) bool {
	return slices.ContainsFunc(unused, func(u string) bool { return key == u || strings.HasPrefix(key, u+".") })
}
