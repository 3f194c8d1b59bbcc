package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// measureCreate counts CreateVolume calls per second, from one client and from sixteen. A volume that was answered
// survives a power cut, so the floor is the least that can be so: a small file written, synced and renamed, and its
// folder synced, by as many at once.
func measureCreate(ctx context.Context, e *env, runs int) (_ []Figure, err error) {
	driver, err := startDriver(ctx, e)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, driver.stop()) }()
	var figures []Figure
	for _, c := range []struct {
		name    string
		clients int
		calls   int // in one run
		target  target
	}{
		{"create-1", 1, 500, noTarget()},
		{"create-16", 16, 3200, valueAtLeast(2000)},
	} {
		var s samples
		for i := range runs {
			floor, err := filesPerSecond(ctx, e, c.clients, c.calls)
			if err != nil {
				return nil, err
			}
			value, err := driver.createsPerSecond(ctx, fmt.Sprintf("%s-%d", c.name, i), c.clients, c.calls)
			if err != nil {
				return nil, err
			}
			s.add(value, floor)
		}
		figures = append(figures, s.figure(c.name,
			fmt.Sprintf("durable CreateVolume calls from %d client(s); floor: durable small files made by as many", c.clients),
			"/s", c.target, "none"))
	}
	return figures, nil
}

// inParallel shares calls among clients and returns how many were made in a second.
func inParallel(ctx context.Context, clients, calls int, do func(ctx context.Context, i int) error) (float64, error) {
	g, ctx := errgroup.WithContext(ctx)
	start := time.Now()
	for c := range clients {
		g.Go(func() error {
			for i := c; i < calls; i += clients {
				if err := do(ctx, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := g.Wait()
	return float64(calls) / time.Since(start).Seconds(), err
}

func filesPerSecond(ctx context.Context, e *env, clients, calls int) (float64, error) {
	dir, err := os.MkdirTemp(e.dir, "files-") // stays, as the volumes do
	if err != nil {
		return 0, err
	}
	folder, err := os.Open(dir)
	if err != nil {
		return 0, err
	}
	defer folder.Close()
	return inParallel(ctx, clients, calls, func(ctx context.Context, i int) error {
		name := filepath.Join(dir, fmt.Sprint(i))
		f, err := os.Create(name + ".tmp")
		if err != nil {
			return err
		}
		_, err = f.WriteString(`{"name":"pvc-00000000-0000-0000-0000-000000000000","size":16777216}`)
		if err := errors.Join(err, f.Sync(), f.Close(), os.Rename(name+".tmp", name), folder.Sync()); err != nil {
			return err
		}
		return ctx.Err()
	})
}

// driver is a csi-node that runs on a pool of its own.
type driver struct {
	cmd   *exec.Cmd
	conns []*grpc.ClientConn
}

const driverStartTimeout = time.Minute

func startDriver(ctx context.Context, e *env) (_ *driver, err error) {
	socket := filepath.Join(e.dir, "csi.sock")
	d := &driver{cmd: driverCommand(ctx, e, socket)}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.stop())
		}
	}()
	// A connection for each client: sixteen on one would share its lock.
	for range 16 {
		c, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, err
		}
		d.conns = append(d.conns, c)
	}
	ctx, cancel := context.WithTimeout(ctx, driverStartTimeout)
	defer cancel()
	for _, c := range d.conns {
		if _, err := csi.NewIdentityClient(c).Probe(ctx, &csi.ProbeRequest{}, grpc.WaitForReady(true)); err != nil {
			return nil, fmt.Errorf("csi-node does not answer: %w", err)
		}
	}
	return d, nil
}

func (d *driver) stop() error {
	for _, c := range d.conns {
		_ = c.Close()
	}
	if err := d.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	_ = d.cmd.Wait() // how it ends is not what is measured
	return nil
}

// createsPerSecond makes volumes, which stay until the bench ends: an ext4 without a journal does not take an inode again
// within minutes of its deletion, and looks through all of those for one that it may take. So a run after a deletion of
// thousands would measure that deletion.
func (d *driver) createsPerSecond(ctx context.Context, prefix string, clients, calls int) (float64, error) {
	start := time.Now()
	_, err := d.makeVolumes(ctx, prefix, clients, calls)
	return float64(calls) / time.Since(start).Seconds(), err
}

func (d *driver) makeVolumes(ctx context.Context, prefix string, clients, calls int) (ids []string, err error) {
	ids = make([]string, calls)
	_, err = inParallel(ctx, clients, calls, func(ctx context.Context, i int) error {
		answer, err := csi.NewControllerClient(d.conns[i%clients]).CreateVolume(ctx, &csi.CreateVolumeRequest{
			Name:          fmt.Sprintf("%s-%d", prefix, i),
			CapacityRange: &csi.CapacityRange{RequiredBytes: 16 << 20},
			VolumeCapabilities: []*csi.VolumeCapability{{
				AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: "ext4"}},
				AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER},
			}},
		})
		ids[i] = answer.GetVolume().GetVolumeId()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("CreateVolume: %w", err)
	}
	return ids, nil
}
