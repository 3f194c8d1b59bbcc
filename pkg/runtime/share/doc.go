// Package share is what a guest may see of the host's files: one folder tree per sandbox, and the virtiofsd that
// serves it.
//
//	<base>/mounts/<container>/rootfs             the container's root file system
//	<base>/mounts/<container>-<16 hex>-<name>    one bind mount of it, a file or a folder
//	<base>/shared                                a read-only slave of mounts; this is what virtiofsd serves
//
// The guest mounts the served folder at GuestDir. Names and places are Kata's. The sandbox calls this package;
// docs/file-share.md draws it. What a mount means to a container (is it a volume, does it stay the guest's own) must
// never move in here: a path comes in, the guest's path goes out.
package share

const (
	// Tag is the virtio-fs tag by which the guest finds the share.
	Tag = "kataShared"
	// GuestDir is where the guest mounts it.
	GuestDir = "/run/kata-containers/shared/containers"
	// DefaultRoot holds one folder per sandbox on the host.
	DefaultRoot = "/run/kata-containers/shared/sandboxes"
)
