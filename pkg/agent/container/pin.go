package container

import (
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// pins hold the shared file systems that a container uses, from before it is
// made until it is gone.
//
// Each folder that the host has mounted below the file share is a file system
// of its own in the guest, mounted when it is first looked at, and that is
// crun in the container's mount namespace. Without a pin it would be taken
// down by the exit of the container's last process, while the host is still
// answering that process's last close, and Linux 6.1 stumbles over it: "VFS:
// Busy inodes after unmount of virtiofs", which Debian makes a BUG. The process
// then never ends.
type pins []int

// pin opens the shared folders among the container's root and binds.
func pin(spec *specs.Spec) pins {
	paths := []string{spec.Root.Path}
	for _, m := range spec.Mounts {
		if isBind(m) {
			paths = append(paths, m.Source)
		}
	}
	var p pins
	for _, path := range paths {
		// O_DIRECTORY, as O_PATH alone would not have the folder mounted.
		fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue // a file, or crun will say what is wrong with it
		}
		if !isShared(fd) {
			unix.Close(fd) // a volume must not be kept from being unmounted
			continue
		}
		p = append(p, fd)
	}
	return p
}

// isBind says whether a mount is one, whichever way it says so: of type none,
// as in mount(8), or bind.
func isBind(m specs.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

func isShared(fd int) bool {
	var fs unix.Statfs_t
	return unix.Fstatfs(fd, &fs) == nil && fs.Type == unix.FUSE_SUPER_MAGIC
}

// release lets the file systems go. The answer to a question put to the host
// now comes after those to all earlier requests: none is under way any more.
func (p pins) release() {
	for _, fd := range p {
		isShared(fd)
		unix.Close(fd)
	}
}
