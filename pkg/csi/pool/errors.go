package pool

import "errors"

var (
	// ErrInvalidID says that a volume id could not be the name of a folder. Nothing was looked up.
	ErrInvalidID = errors.New("invalid volume id")
	// ErrNotFound says that the pool has no such volume.
	ErrNotFound = errors.New("volume not found")
	// ErrIncompatible says that a volume of that name exists and is not what was asked for.
	ErrIncompatible = errors.New("a volume of that name exists and differs")
	// ErrInvalidSpec says that a volume cannot be made from what was asked, whatever its size.
	ErrInvalidSpec = errors.New("invalid volume request")
	// ErrOutOfRange says that no pool could satisfy the size asked for.
	ErrOutOfRange = errors.New("size out of range")
	// ErrNoSpace says that this pool cannot hold the size asked for now.
	ErrNoSpace = errors.New("not enough space in the pool")
	// ErrDamaged says that the volume's folder is there, and cannot be used as it is. Nothing is deleted.
	ErrDamaged = errors.New("volume is damaged")
	// ErrImageInUse says that a process, usually a virtual machine, has the volume's image locked.
	ErrImageInUse = errors.New("the volume's image is in use")
	// ErrPoolInUse says that another process has the pool open.
	ErrPoolInUse = errors.New("the pool is in use by another process")
	// ErrUnsafePool says that others than this process's user could write in the pool.
	ErrUnsafePool = errors.New("unsafe pool folder")
)
