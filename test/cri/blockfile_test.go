package cri

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/test/artifacts"
)

// containerd's blockfile snapshotter keeps each root file system in an image file. Debian's containerd has none.
func TestARootFileSystemFromContainerdsBlockfileSnapshotter(t *testing.T) {
	c := newCtr(t, artifacts.Node(t, lab.V2))
	c.want(`$RUN --rm --snapshotter blockfile $IMAGE root sh -c "grep ' / ' /proc/mounts | cut -d' ' -f1,3; echo mine >/mine; cat /mine"`,
		"/dev/vda ext4\nmine\n")
	// The next container begins with the image again, and the first one's disk is nobody's.
	c.want(`$RUN --rm --snapshotter blockfile $IMAGE root sh -c 'cat /mine || echo clean' 2>/dev/null`, "clean\n")
	c.want(`$RUN --rm --snapshotter blockfile --read-only $IMAGE root sh -c 'echo x >/mine || echo refused' 2>/dev/null`, "refused\n")
}

func TestAnEmptyDirHasADiskOfItsOwnWhereTheConfigurationSaysSo(t *testing.T) {
	eachContainerd(t, func(t *testing.T, n *kubelet.Node) {
		settings, err := os.ReadFile(filepath.Join(n.Lab.Dir, kubelet.Handler+".toml"))
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(n.Lab.Dir, "pods/uid/volumes/kubernetes.io~empty-dir/cache")
		config := filepath.Join(n.Lab.Dir, "block.toml")
		err = errors.Join(os.MkdirAll(dir, 0o777), os.Chmod(dir, 0o777),
			os.WriteFile(config, fmt.Appendf(settings, "\n[runtime]\nemptydir_mode = \"block-plain\"\n"), 0o600))
		if err != nil {
			t.Fatal(err)
		}
		c := newCtr(t, n)
		c.want(fmt.Sprintf(`$RUN --rm --runtime-config-path %s --mount type=bind,src=%s,dst=/cache,options=rbind:rw $IMAGE empty `+
			`sh -c 'awk "\$2 == \"/cache\" { print \$1, \$3 }" /proc/mounts; echo x >/cache/file; stat -c %%a /cache'; ls -A %s`, config, dir, dir),
			"/dev/vda ext4\n777\n")
		if _, err := os.Lstat(filepath.Join(dir, "disk.img")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("its disk is left: %v", err)
		}
	})
}
