package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/katadirect/katadirect/internal/guestimage"
	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
)

// Addresses of the host: on the bridge that pods are plugged into (internal/lab), and on the bare machine's tap.
const (
	bridgeAddress = "10.88.0.1"
	tapAddress    = "10.99.0.1"
	bareAddress   = "10.99.0.2"
	bareTap       = "bare0"
	sinkPort      = "5001"
	sentBytes     = 128 << 20
)

// measureNetwork sends from a pod's container to the host, through the pod's network as CNI has made it: veth, traffic
// control, tap. The floor is a machine whose tap is the host's own interface.
func measureNetwork(ctx context.Context, e *env, runs int) (_ []Figure, err error) {
	node, err := kubelet.Open(ctx, kubelet.Options{BinDir: e.binDir, Image: e.image})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeNode(ctx, node)) }()
	if _, err := node.Lab.Start(lab.Command{Name: "sink", Path: e.load, Args: []string{":" + sinkPort, "sink"}}); err != nil {
		return nil, err
	}
	bare, err := startBareWithTap(ctx, e, node.Lab)
	if err != nil {
		return nil, err
	}
	defer bare.stop()
	pod, err := node.Lab.RunPod(ctx, lab.PodSpec{Name: "network", Handler: kubelet.Handler})
	if err != nil {
		return nil, err
	}
	container, err := pod.Run(ctx, lab.ContainerSpec{
		Name: "app", Command: []string{"sleep", "100000"},
		Mounts: []lab.Mount{{HostPath: e.load, ContainerPath: "/load", ReadOnly: true}},
	})
	if err != nil {
		return nil, err
	}
	if err := rest(ctx); err != nil {
		return nil, err
	}
	var s samples
	for range runs {
		took, err := bare.ask(fmt.Sprintf("send %s %s %d", tapAddress, sinkPort, sentBytes))
		if err != nil {
			return nil, err
		}
		value, err := workIn(ctx, container, bridgeAddress+":"+sinkPort, "send")
		if err != nil {
			return nil, err
		}
		s.add(value, sentBytes/1e6/(time.Duration(took)*time.Microsecond).Seconds())
	}
	return []Figure{s.figure("network", "more is better: 128 MiB sent by TCP from a container to the host, by veth, "+
		"traffic control and tap; floor: by a machine's tap alone", "MB/s", noTarget(), e.accel)}, pod.Remove(ctx)
}

// startBareWithTap boots a bare machine in the lab, with a network card.
func startBareWithTap(ctx context.Context, e *env, l *lab.Lab) (_ *bareMachine, err error) {
	m := &bareMachine{}
	if m.dir, err = os.MkdirTemp(e.dir, "bare-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			m.stop()
		}
	}()
	// The bare image has no driver for it.
	image, err := guestimage.Build(ctx, guestimage.Options{
		Output: filepath.Join(e.dir, "guest-network"), AgentPath: filepath.Join(e.dir, "bareguest"),
	})
	if err != nil {
		return nil, err
	}
	// It ends with the lab.
	_, err = l.Start(lab.Command{Name: "bare", Path: "/usr/bin/qemu-system-x86_64", Args: append(bareArgs(e, m.dir, image),
		"-netdev", "tap,id=net0,ifname="+bareTap+",script=no,downscript=no", "-device", "virtio-net-pci,netdev=net0")})
	if err != nil {
		return nil, err
	}
	bounded, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	if err := m.connect(bounded); err != nil {
		return nil, fmt.Errorf("bare machine: %w", err)
	}
	for _, args := range [][]string{
		{"address", "add", tapAddress + "/24", "dev", bareTap}, {"link", "set", bareTap, "up"},
	} {
		if _, err := l.Run(ctx, lab.Command{Name: "ip", Path: "/bin/busybox", Args: append([]string{"ip"}, args...)}); err != nil {
			return nil, err
		}
	}
	_, err = m.ask("net " + bareAddress)
	return m, err
}
