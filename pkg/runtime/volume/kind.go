package volume

// kind is what a disk is in the machine for.
type kind int

const (
	mounted kind = iota // the agent mounts it for containers
	raw                 // containers have the device itself
	rootfs              // it is a container's root file system
)

func (k kind) String() string {
	return [...]string{"a mounted volume", "a raw device", "a container's root file system"}[k]
}
