package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Pod is a pod sandbox that runs in the lab's containerd.
type Pod struct {
	// ID is the sandbox id that the runtime gave it.
	ID string
	// UID is what kubelet would call it.
	UID string

	lab    *Lab
	config *cri.PodSandboxConfig
}

// PodSpec says what pod to run.
type PodSpec struct {
	Name string
	// Handler is the runtime handler; "" is containerd's default, runc.
	Handler string
	// UID is the pod's; a random one when it is empty.
	UID         string
	Annotations map[string]string
	// ShareProcesses is the pod's shareProcessNamespace.
	ShareProcesses bool
	// Privileged lets containers of the pod be privileged.
	Privileged bool
	// Change, if not nil, sets what there is no field for here.
	Change func(*cri.PodSandboxConfig)
	// DNS is the address of the name server; a place where there is none when it is empty.
	DNS string
	// HostNetwork is the pod's hostNetwork.
	HostNetwork bool
}

// namespaces are those that kubelet asks for.
func (s PodSpec) namespaces() *cri.NamespaceOption {
	n := &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}
	if s.ShareProcesses {
		n.Pid = cri.NamespaceMode_POD
	}
	if s.HostNetwork {
		n.Network = cri.NamespaceMode_NODE
	}
	return n
}

// ContainerSpec says what container to run.
type ContainerSpec struct {
	Name    string
	Command []string
	Mounts  []Mount
	Devices []Device
	Env     map[string]string
	// Privileged is the container's securityContext.privileged.
	Privileged bool
	// Change, if not nil, sets what there is no field for here.
	Change func(*cri.ContainerConfig)
}

// Mount is a host path that the container sees.
type Mount struct {
	HostPath, ContainerPath string
	ReadOnly                bool
}

// runPodTimeout bounds the wait for a pod whose caller has gone: longer than the shim waits for a guest.
const runPodTimeout = 90 * time.Second

// RunPod makes a pod sandbox, as kubelet does it. On error nothing is left of it. A call that is cancelled half way
// leaves containerd at work on a pod that it does not list yet; so the call is waited for, and the pod taken away
// after it.
func (l *Lab) RunPod(ctx context.Context, spec PodSpec) (*Pod, error) {
	if spec.UID == "" {
		spec.UID = uuid.NewString()
	}
	p := &Pod{UID: spec.UID, lab: l}
	p.config = &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: spec.Name, Uid: spec.UID, Namespace: "lab"},
		LogDirectory: filepath.Join(l.Dir, "pods", spec.Name+"_"+spec.UID),
		// Given, so that the runtime does not read the host's, which may point below /run.
		DnsConfig:   &cri.DNSConfig{Servers: []string{cmp.Or(spec.DNS, "127.0.0.1")}},
		Annotations: spec.Annotations,
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent: cgroupOf(l.Dir),
			SecurityContext: &cri.LinuxSandboxSecurityContext{
				NamespaceOptions: spec.namespaces(), Privileged: spec.Privileged,
			},
		},
	}
	if spec.Change != nil {
		spec.Change(p.config)
	}
	if err := os.MkdirAll(p.config.LogDirectory, 0o755); err != nil {
		return nil, err
	}
	whole, cancel := context.WithTimeout(context.WithoutCancel(ctx), runPodTimeout)
	defer cancel()
	made, err := l.cri.RunPodSandbox(whole, &cri.RunPodSandboxRequest{Config: p.config, RuntimeHandler: spec.Handler})
	if err != nil {
		return nil, fmt.Errorf("run pod %s: %w", spec.Name, err)
	}
	p.ID = made.GetPodSandboxId()
	if err := ctx.Err(); err != nil {
		return nil, errors.Join(fmt.Errorf("run pod %s: %w", spec.Name, err), p.Remove(whole))
	}
	return p, nil
}

// Config is what the pod was made with, nil for one that Pods has found.
func (p *Pod) Config() *cri.PodSandboxConfig { return p.config }

// Device is a device of the host that the container has.
type Device struct {
	HostPath, ContainerPath string
	ReadOnly                bool
}

func (d Device) permissions() string {
	if d.ReadOnly {
		return "r" // as kubelet has it
	}
	return "mrw"
}

// IP is the pod's address, as the runtime has it.
func (p *Pod) IP(ctx context.Context) (string, error) {
	r, err := p.lab.cri.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: p.ID})
	return r.GetStatus().GetNetwork().GetIp(), err
}

// Pods lists the ids of the pods that the runtime knows.
func (l *Lab) Pods(ctx context.Context) ([]*Pod, error) {
	list, err := l.cri.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return nil, err
	}
	var pods []*Pod
	for _, item := range list.GetItems() {
		pods = append(pods, &Pod{ID: item.GetId(), UID: item.GetMetadata().GetUid(), lab: l})
	}
	return pods, nil
}

// Remove stops the pod with all its containers and removes it. Removing a removed pod succeeds.
func (p *Pod) Remove(ctx context.Context) error {
	_, err := p.lab.cri.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.ID})
	if err != nil {
		return fmt.Errorf("stop pod %s: %w", p.ID, err)
	}
	_, err = p.lab.cri.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.ID})
	if err != nil {
		return fmt.Errorf("remove pod %s: %w", p.ID, err)
	}
	return nil
}

// Container is a container of a Pod.
type Container struct {
	ID  string
	lab *Lab
	log string
}

// Run creates and starts a container. One that was created but does not start is removed again.
func (p *Pod) Run(ctx context.Context, spec ContainerSpec) (*Container, error) {
	config := &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: spec.Name},
		Image:    &cri.ImageSpec{Image: ShellImage},
		Command:  spec.Command,
		LogPath:  spec.Name + ".log",
		Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
			NamespaceOptions: p.config.GetLinux().GetSecurityContext().GetNamespaceOptions(),
		}},
	}
	config.Linux.SecurityContext.Privileged = spec.Privileged
	for _, m := range spec.Mounts {
		config.Mounts = append(config.Mounts, &cri.Mount{
			HostPath: m.HostPath, ContainerPath: m.ContainerPath, Readonly: m.ReadOnly,
		})
	}
	for _, d := range spec.Devices {
		config.Devices = append(config.Devices, &cri.Device{
			HostPath: d.HostPath, ContainerPath: d.ContainerPath, Permissions: d.permissions(),
		})
	}
	for k, v := range spec.Env {
		config.Envs = append(config.Envs, &cri.KeyValue{Key: k, Value: []byte(v)})
	}
	if spec.Change != nil {
		spec.Change(config)
	}
	made, err := p.lab.cri.CreateContainer(ctx, &cri.CreateContainerRequest{
		PodSandboxId: p.ID, Config: config, SandboxConfig: p.config,
	})
	if err != nil {
		return nil, fmt.Errorf("create container %s: %w", spec.Name, err)
	}
	c := &Container{ID: made.GetContainerId(), lab: p.lab, log: filepath.Join(p.config.LogDirectory, config.LogPath)}
	if _, err := p.lab.cri.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: c.ID}); err != nil {
		return nil, errors.Join(fmt.Errorf("start container %s: %w", spec.Name, err), c.Remove(context.WithoutCancel(ctx)))
	}
	return c, nil
}

// Exec runs a command in the container and returns its standard output. A command that fails is an *ExitError.
func (c *Container) Exec(ctx context.Context, command ...string) (string, error) {
	r, err := c.lab.cri.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: c.ID, Cmd: command, Timeout: execTimeoutSeconds})
	if err != nil {
		return "", fmt.Errorf("exec %q: %w", strings.Join(command, " "), err)
	}
	if r.GetExitCode() != 0 {
		return string(r.GetStdout()), &ExitError{command, int(r.GetExitCode()), string(r.GetStderr())}
	}
	return string(r.GetStdout()), nil
}

const execTimeoutSeconds = 60

// ExitError says that a command in a container ended with another code than 0.
type ExitError struct {
	Command []string
	Code    int
	Stderr  string
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("%q ended with code %d: %s", strings.Join(e.Command, " "), e.Code, strings.TrimSpace(e.Stderr))
}

// Status is the container's state as the CRI has it.
func (c *Container) Status(ctx context.Context) (*cri.ContainerStatus, error) {
	r, err := c.lab.cri.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: c.ID})
	return r.GetStatus(), err
}

// Wait returns the exit code of the container when it has ended.
func (c *Container) Wait(ctx context.Context) (int, error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		status, err := c.Status(ctx)
		if err != nil {
			return 0, err
		}
		if status.GetState() == cri.ContainerState_CONTAINER_EXITED {
			return int(status.GetExitCode()), nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, fmt.Errorf("container %s is %s: %w", c.ID, status.GetState(), ctx.Err())
		}
	}
}

// Logs is what the container has written to the stream ("stdout" or "stderr"), from the log that kubelet would read.
func (c *Container) Logs(stream string) (string, error) {
	raw, err := os.ReadFile(c.log)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	for line := range strings.Lines(string(raw)) {
		// time stream tag text: the tag is P for a piece of a line and F for its end.
		field := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(field) != 4 || field[1] != stream {
			continue
		}
		out.WriteString(field[3])
		if field[2] == "F" {
			out.WriteByte('\n')
		}
	}
	return out.String(), nil
}

// Stop sends SIGTERM and, after the grace period in seconds, SIGKILL.
func (c *Container) Stop(ctx context.Context, graceSeconds int64) error {
	_, err := c.lab.cri.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: c.ID, Timeout: graceSeconds})
	return err
}

// Remove removes the container, which need not have ended.
func (c *Container) Remove(ctx context.Context) error {
	_, err := c.lab.cri.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: c.ID})
	return err
}

// Stats are the container's figures as the CRI has them.
func (c *Container) Stats(ctx context.Context) (*cri.ContainerStats, error) {
	r, err := c.lab.cri.ContainerStats(ctx, &cri.ContainerStatsRequest{ContainerId: c.ID})
	return r.GetStats(), err
}
