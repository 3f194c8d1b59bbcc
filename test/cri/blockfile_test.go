package cri

import (
	"testing"

	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/test/artifacts"
)

// containerd's blockfile snapshotter keeps each root file system in an image file. Debian's containerd has none.
func TestARootFileSystemFromContainerdsBlockfileSnapshotter(t *testing.T) {
	c := newCtr(t, artifacts.Node(t, lab.V2))
	const look = `awk '$2 == "/" { print $1, $3 }' /proc/mounts`
	c.want(`$RUN --rm --snapshotter blockfile $IMAGE root sh -c '`+look+`; echo mine >/mine; cat /mine'`, "/dev/vda ext4\nmine\n")
	// The next container begins with the image again, and the first one's disk is nobody's.
	c.want(`$RUN --rm --snapshotter blockfile $IMAGE root sh -c 'cat /mine || echo clean' 2>/dev/null`, "clean\n")
	c.want(`$RUN --rm --snapshotter blockfile --read-only $IMAGE root sh -c 'echo x >/mine || echo refused' 2>/dev/null`, "refused\n")
}
