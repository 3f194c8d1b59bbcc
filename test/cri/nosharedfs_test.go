package cri

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/test/artifacts"
)

// With shared_fs = "none" nothing serves the host's files. Root file systems are disks then, which Debian's containerd
// has no snapshotter for.
func TestWithoutAFileShareTheGuestHasCopies(t *testing.T) {
	n := artifacts.Node(t, lab.V2)
	d, c := newPodDir(t, n), newCtr(t, n)
	config := filepath.Join(n.Lab.Dir, "none.toml")
	text, err := os.ReadFile(filepath.Join(n.Lab.Dir, kubelet.Handler+".toml"))
	d.must(err, os.WriteFile(config, fmt.Appendf(text, "shared_fs = \"none\"\n"), 0o600))
	run := "$RUN --snapshotter blockfile --runtime-config-path " + config

	settings, disk, hosts := d.volume("configmap", "settings"), d.volume("empty-dir", "disk"), filepath.Join(d.path, "hosts")
	d.write(settings, "1", map[string]string{"colour": "red"})
	d.must(os.Mkdir(filepath.Join(disk, "part"), 0o777), os.WriteFile(hosts, []byte("192.0.2.1 one\n"), 0o644))
	mount := func(source, destination, mode string) string {
		return fmt.Sprintf(" --mount type=bind,src=%s,dst=%s,options=rbind:%s", source, destination, mode)
	}
	c.want(run+" -d --null-io"+mount(settings, "/settings", "ro")+mount(hosts, "/etc/hosts", "rw")+mount(disk, "/cache", "rw")+
		mount(disk+"/part", "/part", "rw")+" $IMAGE copies sleep 1000; echo $?", "0\n")
	if pids, err := n.Lab.Find("virtiofsd"); err != nil || len(pids) > 0 {
		t.Errorf("virtiofsd runs: %v, %v", pids, err)
	}
	in := func(id, script string) string {
		return "$CTR task exec --exec-id " + id + " copies sh -c '" + script + "'"
	}
	c.want(in("look", `grep -c virtiofs /proc/mounts; cat /settings/colour; echo; cat /etc/hosts; stat -c %a /cache; `+
		`echo x >/part/file; cat /cache/part/file`), "0\nred\n192.0.2.1 one\n777\nx\n")
	d.write(settings, "2", map[string]string{"colour": "blue"})
	c.want(in("follow", `while [ "$(cat /settings/colour)" != blue ]; do sleep 0.1; done; echo changed`), "changed\n")
	c.want("$CTR task rm -f copies >/dev/null 2>&1; $CTR container rm copies; echo $?", "0\n")
	if entries, err := os.ReadDir(filepath.Join(disk, "part")); err != nil || len(entries) > 0 {
		t.Errorf("on the host the emptyDir has %v, %v", entries, err)
	}

	why := filepath.Join(d.path, "termination-log")
	d.must(os.WriteFile(why, nil, 0o666))
	c.want(run+" --rm --null-io"+mount(why, "/dev/termination-log", "rw")+` $IMAGE words sh -c "echo why >/dev/termination-log; exit 3"; echo $?`, "3\n")
	if got, err := os.ReadFile(why); err != nil || string(got) != "why\n" {
		t.Errorf("the host reads the termination message %q, %v", got, err)
	}

	for script, want := range map[string]string{
		run + " --rm" + mount(d.path, "/host", "rw") + " $IMAGE writable true": "may write to",
		"$RUN --rm --runtime-config-path " + config + " $IMAGE folder true":    "blockfile",
	} {
		if out, err := c.shell(script); err == nil || !strings.Contains(out, want) || !strings.Contains(out, "shared_fs") {
			t.Errorf("%s\nprinted %q, %v, want %q", script, out, err, want)
		}
	}
}
