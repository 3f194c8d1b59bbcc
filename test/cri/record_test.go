package cri

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/test/artifacts"
)

// fakeTarget makes a folder like those that kubelet gives to a driver, with a file in it that no container may see.
func fakeTarget(t *testing.T, n *kubelet.Node, podUID string) string {
	t.Helper()
	target := filepath.Join(n.Lab.Dir, "other", podUID, "volumes/kubernetes.io~csi/pvc/mount")
	err := errors.Join(os.MkdirAll(target, 0o750), os.WriteFile(filepath.Join(target, "host-file"), nil, 0o644))
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// A record that cannot be used must fail the container. Upstream shares the host's folder instead, and the pod
// writes its data to the node's disk without anybody noticing.
func TestAContainerWithABadRecordFailsAndNothingIsShared(t *testing.T) {
	n := artifacts.Node(t, lab.Debian)
	pod := runPod(t, n, "pod")
	good := []byte(`{"volume-type":"directvol","device":"` + filepath.Join(n.Lab.Dir, "disk") + `","fstype":"ext4","metadata":{},"options":[]}`)
	device := func(path string) []byte {
		return bytes.Replace(good, []byte(filepath.Join(n.Lab.Dir, "disk")), []byte(path), 1)
	}
	if err := os.Truncate(newFile(t, filepath.Join(n.Lab.Dir, "disk")), 64<<20); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, reason string
		spoil        func(t *testing.T, file string)
	}{
		{"torn", `unexpected EOF`, content(good[:len(good)/2])},
		{"empty", `it is empty`, content(nil)},
		{"not JSON", `not a JSON object`, content([]byte("device=/dev/sda\n"))},
		{"huge", `larger than 64 KiB`, content(append(good, bytes.Repeat([]byte(" "), 1<<20)...))},
		{"missing", `holds no mountInfo.json`, func(t *testing.T, file string) { must(t, os.Remove(file)) }},
		{"of another user", `belongs to user 1000`, func(t *testing.T, file string) { must(t, os.Chown(file, 1000, 1000)) }},
		{"anyone may write", `mode 0666`, func(t *testing.T, file string) { must(t, os.Chmod(file, 0o666)) }},
		{"device is gone", `no such file or directory`, content(device("/dev/no-such-disk"))},
		{"device a folder", `/etc is neither`, content(device("/etc"))},
		{"device relative", `not an absolute path`, content(device("disk"))},
		{"device a pipe", `neither a block device nor a regular file`, content(device("/proc/self/fd/0"))},
		{"option bind", `option "bind"`, content(bytes.Replace(good, []byte("[]"), []byte(`["bind"]`), 1))},
		{"unknown file type", `fstype "../ext4"`, content(bytes.Replace(good, []byte("ext4"), []byte("../ext4"), 1))},
	} {
		t.Run(tc.name, func(t *testing.T) {
			target := fakeTarget(t, n, uuid.NewString())
			record := directvolume.Record{
				VolumeType: directvolume.VolumeTypeDirect, Device: filepath.Join(n.Lab.Dir, "disk"), FSType: "ext4",
			}
			must(t, n.Records().Add(t.Context(), target, record))
			folder := filepath.Join(n.Records().Root(), directvolume.EncodeKey(target))
			tc.spoil(t, filepath.Join(folder, "mountInfo.json"))
			_, err := pod.Run(t.Context(), lab.ContainerSpec{
				Name: "app", Command: []string{"sh", "-c", "ls /data; " + idle},
				Mounts: []lab.Mount{{HostPath: target, ContainerPath: "/data"}},
			})
			if err == nil {
				t.Fatal("the container runs")
			}
			if !strings.Contains(err.Error(), tc.reason) {
				t.Errorf("the reason given is %q, want one with %q", err, tc.reason)
			}
			mounts, err := n.Lab.MountsOf(filepath.Join(n.Lab.Dir, "disk"), target)
			if err != nil || len(mounts) > 0 {
				t.Errorf("the folder is shared: %s, %v", strings.Join(mounts, "; "), err)
			}
			must(t, os.RemoveAll(folder))
		})
	}
	// The pod is none the worse for it.
	if got := exec(t, run(t, pod, "after", idle), "echo fine"); got != "fine\n" {
		t.Errorf("a container after the bad ones printed %q", got)
	}
	removePod(t, pod)
}

func content(data []byte) func(*testing.T, string) {
	return func(t *testing.T, file string) { must(t, os.WriteFile(file, data, 0o600)) }
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newFile(t *testing.T, path string) string {
	t.Helper()
	must(t, os.WriteFile(path, nil, 0o600))
	return path
}
