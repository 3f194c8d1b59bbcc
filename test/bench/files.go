package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
)

// fileWorks are what the load program can do, in an order in which each finds what it needs.
var fileWorks = []struct{ name, what, unit string }{
	{"sequential-write", "64 MiB written in pieces of 1 MiB, and flushed", "MB/s"},
	{"sequential-read", "64 MiB read in pieces of 1 MiB, none of it in the guest's memory", "MB/s"},
	{"random-write", "4 KiB written at 3,000 places of a file of 64 MiB, and flushed at the end", "/s"},
	{"random-read", "4 KiB read at 3,000 places of a file of 64 MiB, none of it in the guest's memory", "/s"},
	{"fsync", "4 KiB appended to a file and flushed, 300 times", "/s"},
	{"create", "1,000 files of 100 bytes made in a folder", "/s"},
	{"stat", "each of them looked at five times", "/s"},
}

// measureFiles does the same work in one container on a direct volume and on a folder that is shared with the host, on
// the same disk. The folder's figures stand in the floor's place: they are what the volume is there to be better than.
func measureFiles(ctx context.Context, e *env, runs int) (_ []Figure, err error) {
	node, err := kubelet.Open(ctx, kubelet.Options{BinDir: e.binDir, Image: e.image})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeNode(ctx, node)) }()
	share := filepath.Join(node.Lab.Dir, "shared-folder")
	if err := os.Mkdir(share, 0o755); err != nil {
		return nil, err
	}
	uid, volume := uuid.NewString(), node.Volume("pvc-"+uuid.NewString(), imageBytes, "ext4")
	for _, step := range []func(context.Context) error{
		volume.Create, volume.Stage, func(ctx context.Context) error { return volume.Publish(ctx, uid) },
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	pod, err := node.Lab.RunPod(ctx, lab.PodSpec{Name: "files", UID: uid, Handler: kubelet.Handler})
	if err != nil {
		return nil, err
	}
	container, err := pod.Run(ctx, lab.ContainerSpec{Name: "app", Command: []string{"sleep", "100000"}, Mounts: []lab.Mount{
		{HostPath: volume.TargetPath(uid), ContainerPath: "/direct"},
		{HostPath: share, ContainerPath: "/share"},
		{HostPath: e.load, ContainerPath: "/load", ReadOnly: true},
	}})
	if err != nil {
		return nil, err
	}
	if err := rest(ctx); err != nil {
		return nil, err
	}
	all := make([]samples, len(fileWorks))
	for range runs {
		for i, w := range fileWorks {
			floor, err := workIn(ctx, container, "/share", w.name)
			if err != nil {
				return nil, err
			}
			value, err := workIn(ctx, container, "/direct", w.name)
			if err != nil {
				return nil, err
			}
			all[i].add(value, floor)
		}
	}
	var figures []Figure
	for i, w := range fileWorks {
		figures = append(figures, all[i].figure("file-"+w.name,
			"more is better: "+w.what+"; a direct volume, and in the floor's place the pod's file share", w.unit, noTarget(), e.accel))
	}
	if err := pod.Remove(ctx); err != nil {
		return nil, err
	}
	return figures, release(ctx, volume, uid)
}

// workIn returns how much of the work was done in a second.
func workIn(ctx context.Context, c *lab.Container, dir, work string) (float64, error) {
	said, err := c.Exec(ctx, "/load", dir, work)
	if err != nil {
		return 0, err
	}
	perSecond, err := strconv.ParseFloat(strings.TrimSpace(said), 64)
	if err != nil {
		return 0, fmt.Errorf("the load program said %q", said)
	}
	return perSecond, nil
}
