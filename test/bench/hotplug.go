package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// measureHotplug plugs disks that hold an ext4, and has the guest mount them. It is each machine's first disk, as the
// volume of most pods is: the second goes three times faster under TCG, the code being translated.
func measureHotplug(ctx context.Context, e *env, runs int) ([]Figure, error) {
	var s samples
	for i := range runs {
		floor, err := plugBare(ctx, e, i)
		if err != nil {
			return nil, err
		}
		value, err := plugOurs(ctx, e, i)
		if err != nil {
			return nil, err
		}
		s.add(milliseconds(value), milliseconds(floor))
	}
	return []Figure{s.figure("hotplug",
		"request to plug a machine's first disk to its ext4 mounted in the guest; floor: bare QMP and one mount call",
		"ms", ratioAtMost(1.5), e.accel)}, nil
}

func plugBare(ctx context.Context, e *env, i int) (time.Duration, error) {
	image, err := makeExt4(ctx, e, fmt.Sprintf("bare%d", i))
	if err != nil {
		return 0, err
	}
	m, _, err := startBare(ctx, e, true)
	if err != nil {
		return 0, err
	}
	defer m.stop()
	start := time.Now()
	if err := m.plug("bench", image); err != nil {
		return 0, err
	}
	_, err = m.ask("mount /bench")
	return time.Since(start), err
}

// plugOurs stops the clock when the agent says on the console that the storage is mounted: the call that mounts it
// goes on to make a container, which is none of this figure's business.
func plugOurs(ctx context.Context, e *env, i int) (took time.Duration, err error) {
	image, err := makeExt4(ctx, e, fmt.Sprintf("ours%d", i))
	if err != nil {
		return 0, err
	}
	m, _, err := startOurs(ctx, e)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, m.stop(ctx)) }()
	if err := m.makePod(ctx); err != nil {
		return 0, err
	}
	mounted := m.console.await(`"source":"02/01"`)
	start := time.Now()
	address, err := m.machine.PlugDisk(ctx, vm.Disk{ID: "bench", Path: image})
	if err != nil {
		return 0, err
	}
	created := make(chan error, 1)
	go func() {
		_, err := m.agent.CreateContainer(ctx, container("app", &agentproto.Storage{
			Driver: address.Driver, Source: address.Source, Fstype: "ext4",
			MountPoint:    "/run/kata-containers/sandbox/storage/bench",
			DriverOptions: []string{"katadirect.io/grow=on-mount"},
		}))
		created <- err
	}()
	select {
	case <-mounted:
		took = time.Since(start)
		<-created // that this container can be made was never the question
		return took, nil
	case err := <-created:
		select {
		case <-mounted: // the console is the slower channel
			return time.Since(start), nil
		case <-time.After(time.Second):
			return 0, fmt.Errorf("the agent does not say that the disk is mounted: %w", err)
		}
	}
}

// makePod brings the guest to where it is when a pod's first volume is plugged in: the sandbox is made, the file
// share mounted, and the pod's first container, which has no volume, was asked for.
func (m *ourMachine) makePod(ctx context.Context) error {
	_, err := m.agent.CreateSandbox(ctx, &agentproto.CreateSandboxRequest{
		SandboxId: "bench", Hostname: "bench",
		Storages: []*agentproto.Storage{{
			Driver: "virtio-fs", Source: "kataShared", Fstype: "virtiofs",
			MountPoint: "/run/kata-containers/shared/containers", Options: []string{"nodev"},
		}},
	})
	if err != nil {
		return err
	}
	if _, err := m.agent.CreateContainer(ctx, container("pause")); err == nil {
		return errors.New("the agent has made a container of nothing")
	}
	return nil
}

// container asks for a container that has no root file system, and so cannot be made; its storages can.
func container(id string, storages ...*agentproto.Storage) *agentproto.CreateContainerRequest {
	return &agentproto.CreateContainerRequest{
		ContainerId: id, ExecId: id, Storages: storages,
		OCI: agentproto.SpecToProto(&specs.Spec{
			Version: specs.Version,
			Process: &specs.Process{Args: []string{"true"}, Cwd: "/"},
			Root:    &specs.Root{Path: "/run/kata-containers/shared/containers/" + id + "/rootfs"},
			Linux:   &specs.Linux{},
		}),
	}
}

const imageBytes = 1 << 30

// makeExt4 makes a sparse file of 1 GiB with an empty ext4, as a volume is on its second use.
func makeExt4(ctx context.Context, e *env, name string) (string, error) {
	image := filepath.Join(e.dir, name+".img")
	if err := makeSparse(image, imageBytes); err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, "mkfs.ext4", "-q", image).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("mkfs.ext4: %w: %s", err, out)
	}
	return image, nil
}
