package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

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

// plugOurs has the agent mount the disk with the call that makes the sandbox, the only one that takes a storage
// without a container. An agent takes that call once, so each run has a machine of its own.
func plugOurs(ctx context.Context, e *env, i int) (took time.Duration, err error) {
	image, err := makeExt4(ctx, e, fmt.Sprintf("ours%d", i))
	if err != nil {
		return 0, err
	}
	m, _, err := startOurs(ctx, e)
	if err != nil {
		return 0, err
	}
	defer func() {
		if stopErr := m.stop(ctx); err == nil {
			err = stopErr
		}
	}()
	start := time.Now()
	address, err := m.machine.PlugDisk(ctx, vm.Disk{ID: "bench", Path: image})
	if err != nil {
		return 0, err
	}
	_, err = m.agent.CreateSandbox(ctx, &agentproto.CreateSandboxRequest{
		SandboxId: "bench", Hostname: "bench",
		Storages: []*agentproto.Storage{{
			Driver: address.Driver, Source: address.Source, Fstype: "ext4",
			MountPoint:    "/run/kata-containers/sandbox/storage/bench",
			DriverOptions: []string{"katadirect.io/grow=on-mount"},
		}},
	})
	return time.Since(start), err
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
