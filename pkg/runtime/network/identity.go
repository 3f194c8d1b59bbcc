package network

import "golang.org/x/sys/unix"

// Identity tells a network namespace from all others, also from one that is at the same path later: the path may name a
// process, whose number is another's by then.
type Identity struct {
	Inode uint64 `json:"inode,omitempty"`
	// Cookie is the kernel's own number of it, which is never given twice while the host runs; 0 before Linux 5.14.
	Cookie uint64 `json:"cookie,omitempty"`
}

// identify asks who the namespace is.
func (n *namespace) identify() (id Identity, err error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(n.file.Fd()), &stat); err != nil {
		return id, err
	}
	id.Inode = stat.Ino
	err = n.do(func() error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		id.Cookie, _ = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return nil
	})
	return id, err
}

// is tells whether both are the same namespace. An identity that nobody has noted is nobody's.
func (i Identity) is(other Identity) bool { return i == other && i != Identity{} }
