package hostile

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/test/artifacts"
)

// outcome is what may come of a container that makes no sense. Any other text is what the error has in it of one that is
// refused, in time, and with a text for people.
type outcome string

const (
	runs   outcome = ""  // it makes sense after all: it runs, and can be stopped
	either outcome = "?" // what of the two is containerd's or the kernel's to say
)

// A container that asks for what makes no sense is refused in time, or runs; either way the pod's other container does
// not notice, and nothing is left.
func TestAbsurdContainersHarmNobody(t *testing.T) {
	n := artifacts.Node(t, lab.Debian)
	dir := filepath.Join(n.Lab.Dir, "absurd")
	if err := os.MkdirAll(filepath.Join(dir, "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	fifo, socket, link := filepath.Join(dir, "fifo"), filepath.Join(dir, "socket"), filepath.Join(dir, "link")
	if err := unix.Mkfifo(fifo, 0o666); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if err := os.Symlink("/nowhere/at/all", link); err != nil {
		t.Fatal(err)
	}
	const major, minor = 7, 1<<20 - 1 // a loop device that nobody has made
	disk := filepath.Join(dir, "disk")
	if err := unix.Mknod(disk, unix.S_IFBLK|0o600, int(unix.Mkdev(major, minor))); err != nil {
		t.Fatal(err)
	}
	pod, err := n.Lab.RunPod(t.Context(), lab.PodSpec{Name: "pod", Handler: kubelet.Handler})
	if err != nil {
		t.Fatal(err)
	}
	witness, err := pod.Run(t.Context(), lab.ContainerSpec{
		Name: "witness", Command: []string{"sleep", "infinity"},
		Mounts: []lab.Mount{{HostPath: filepath.Join(dir, "folder"), ContainerPath: "/folder"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	mount := func(source, destination string) func(*cri.ContainerConfig) {
		return func(c *cri.ContainerConfig) {
			c.Mounts = append(c.Mounts, &cri.Mount{HostPath: source, ContainerPath: destination})
		}
	}
	resources := func(r *cri.LinuxContainerResources) func(*cri.ContainerConfig) {
		return func(c *cri.ContainerConfig) { c.Linux.Resources = r }
	}
	folder := filepath.Join(dir, "folder")
	for _, tc := range []struct {
		name   string
		want   outcome
		absurd func(*cri.ContainerConfig)
	}{
		{"a mount over the agent's folder", runs, mount(folder, "/run/kata-containers")},
		{"a mount below the agent's folder", runs, mount(folder, "/run/kata-containers/shared/containers")},
		{"a mount with a way out", either, mount(folder, "/../../../../run/kata-containers")},
		{"a mount over the root", either, mount(folder, "/")},
		{"a mount over /proc", either, mount(folder, "/proc")},
		{"a mount in no place", either, mount(folder, "")},
		{"two hundred mounts", runs, func(c *cri.ContainerConfig) {
			for i := range 200 {
				mount(folder, "/mnt/"+strings.Repeat("x", i+1))(c)
			}
		}},
		{"a fifo that nobody reads", runs, mount(fifo, "/fifo")},
		{"a socket", runs, mount(socket, "/socket")},
		{"a link to nowhere", outcome(link), mount(link, "/link")},
		{"a device that every guest has", runs, mount("/dev/null", "/null")},
		{"a disk that is not there", outcome(disk), mount(disk, "/disk")},
		{"no memory at all", either, resources(&cri.LinuxContainerResources{MemoryLimitInBytes: 1})},
		{"all memory there is", "more memory than a machine can have", resources(&cri.LinuxContainerResources{MemoryLimitInBytes: 1 << 62})},
		{"less than no processor", "processor quota -5", resources(&cri.LinuxContainerResources{CpuQuota: -5, CpuPeriod: -7, CpuShares: -1})},
		{"every processor there could be", either, resources(&cri.LinuxContainerResources{CpuQuota: 1 << 50, CpuPeriod: 1000, CpuShares: 1 << 40})},
		{"processors that are not there", `processor set "0-100000"`, resources(&cri.LinuxContainerResources{CpusetCpus: "0-100000", CpusetMems: "77"})},
		{"huge pages of no size", either, resources(&cri.LinuxContainerResources{
			HugepageLimits: []*cri.HugepageLimit{{PageSize: "../../x", Limit: 1}}})},
		{"a cgroup file that is none", runs, resources(&cri.LinuxContainerResources{
			Unified: map[string]string{"../../../cgroup.kill": "1"}})},
		{"a command that is not there", "no/such", func(c *cri.ContainerConfig) { c.Command = []string{"\x1b[2J/no/such"} }},
		{"a command of a hundred thousand letters", runs, func(c *cri.ContainerConfig) {
			c.Command = []string{"sh", "-c", "sleep 1000; : " + strings.Repeat("x", 100_000)}
		}},
		{"ten thousand variables", runs, func(c *cri.ContainerConfig) {
			for i := range 10_000 {
				c.Envs = append(c.Envs, &cri.KeyValue{Key: "V" + strings.Repeat("0", i%50), Value: []byte("x")})
			}
		}},
		{"a folder to begin in that is not there", either, func(c *cri.ContainerConfig) { c.WorkingDir = "/../../no/such" }},
		{"a user that nobody is", either, func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.RunAsUser = &cri.Int64Value{Value: 1 << 40}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			runAbsurd(t, n.Lab, pod, tc.want, tc.absurd)
			if said, err := witness.Exec(t.Context(), "sh", "-c", "echo here >/folder/file && cat /folder/file"); err != nil || said != "here\n" {
				t.Errorf("the other container notices: %q, %v", said, err)
			}
		})
	}
	remove(t, pod)
}

// runAbsurd makes, starts, stops and removes the container, as far as that goes.
func runAbsurd(t *testing.T, l *lab.Lab, pod *lab.Pod, want outcome, absurd func(*cri.ContainerConfig)) {
	t.Helper()
	config := &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: "absurd"},
		Image:    &cri.ImageSpec{Image: lab.ShellImage},
		Command:  []string{"sleep", "1000"},
		LogPath:  "absurd.log",
		Linux:    &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{}},
	}
	absurd(config)
	ctx, cancel := context.WithTimeout(t.Context(), noticeLimit)
	defer cancel()
	made, err := l.CRI().CreateContainer(ctx, &cri.CreateContainerRequest{
		PodSandboxId: pod.ID, Config: config, SandboxConfig: pod.Config(),
	})
	if err == nil {
		id := made.GetContainerId()
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noticeLimit)
			defer cancel()
			if _, err := l.CRI().StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id}); err != nil {
				t.Errorf("stop: %v", err)
			}
			if _, err := l.CRI().RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: id}); err != nil {
				t.Errorf("remove: %v", err)
			}
		}()
		began := time.Now()
		_, err = l.CRI().StartContainer(ctx, &cri.StartContainerRequest{ContainerId: id})
		t.Logf("start: %.400v, after %s", err, time.Since(began).Round(time.Millisecond))
	} else {
		t.Logf("create: %.400v", err)
	}
	if ctx.Err() != nil {
		t.Fatalf("no answer in time: %v", err)
	}
	if err != nil {
		checkText(t, err.Error())
	}
	switch {
	case want == either:
	case want == runs:
		if err != nil {
			t.Errorf("it does not run: %v", err)
		}
	case err == nil || !strings.Contains(err.Error(), string(want)):
		t.Errorf("the error does not say %q: %v", want, err)
	}
}
