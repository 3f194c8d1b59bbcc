package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/katadirect/katadirect/test/bench/figures"
)

// manyVolumes is how many volumes a node has here: more than anybody has pods for.
const manyVolumes = 1000

// measureVolumes looks at a driver with very many volumes: how long a list of them takes, how long it takes from the
// start of its process to the first answer, and what memory it has.
func measureVolumes(ctx context.Context, e *env, runs int) (_ []Figure, err error) {
	many, none := *e, *e
	many.dir, none.dir = filepath.Join(e.dir, "many"), filepath.Join(e.dir, "none")
	if err := errors.Join(os.Mkdir(many.dir, 0o700), os.Mkdir(none.dir, 0o700)); err != nil {
		return nil, err
	}
	made, list, err := withManyVolumes(ctx, &many, runs)
	if err != nil {
		return nil, err
	}
	var restart, memory samples
	for range runs {
		value, err := startOnce(ctx, &many)
		if err != nil {
			return nil, err
		}
		floor, err := startOnce(ctx, &none)
		if err != nil {
			return nil, err
		}
		restart.add(value.toAnswer.Seconds()*1000, floor.toAnswer.Seconds()*1000)
		memory.add(made, floor.residentMB)
	}
	return []Figure{
		list.figure("list-1000", "ListVolumes of 1,000 volumes in one page; floor: a gRPC server that has the answer ready",
			"ms", valueAtMost(5), "none"),
		restart.figure("restart-1000", "from the start of csi-node's process to its first answer, with 1,000 volumes; floor: with none",
			"ms", valueAtMost(50), "none"),
		memory.figure("csi-memory-1000", "resident memory of csi-node when it has made 1,000 volumes and listed them; floor: with none",
			"MB", valueAtMost(25*1.048576), "none"),
	}, nil
}

// withManyVolumes makes the volumes, and returns what memory the driver then has and how long its lists take.
func withManyVolumes(ctx context.Context, e *env, runs int) (madeMB float64, list samples, err error) {
	d, err := startDriver(ctx, e)
	if err != nil {
		return 0, list, err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	if _, err := d.makeVolumes(ctx, "many", len(d.conns), manyVolumes); err != nil {
		return 0, list, err
	}
	for range runs {
		value, answer, err := timeList(ctx, d.conns[0])
		if err != nil {
			return 0, list, err
		}
		if n := len(answer.GetEntries()); n != manyVolumes {
			return 0, list, fmt.Errorf("ListVolumes lists %d volumes", n)
		}
		floor, err := timeReadyList(ctx, e, answer)
		if err != nil {
			return 0, list, err
		}
		list.add(value, floor)
	}
	madeMB, err = residentMB(d.cmd.Process.Pid)
	return madeMB, list, err
}

// timeList is the median of some calls, in milliseconds, and the last answer.
func timeList(ctx context.Context, conn *grpc.ClientConn) (ms float64, answer *csi.ListVolumesResponse, err error) {
	const calls = 20
	var took []float64
	for range calls {
		start := time.Now()
		if answer, err = csi.NewControllerClient(conn).ListVolumes(ctx, &csi.ListVolumesRequest{}); err != nil {
			return 0, nil, fmt.Errorf("ListVolumes: %w", err)
		}
		took = append(took, time.Since(start).Seconds()*1000)
	}
	return figures.Median(took), answer, nil
}

// readyList is a controller that has its answer ready.
type readyList struct {
	csi.UnimplementedControllerServer
	answer *csi.ListVolumesResponse
}

func (r readyList) ListVolumes(context.Context, *csi.ListVolumesRequest) (*csi.ListVolumesResponse, error) {
	return r.answer, nil
}

func timeReadyList(ctx context.Context, e *env, answer *csi.ListVolumesResponse) (ms float64, err error) {
	socket := filepath.Join(e.dir, "ready.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return 0, err
	}
	server := grpc.NewServer()
	csi.RegisterControllerServer(server, readyList{answer: answer})
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	defer func() {
		server.Stop()
		err = errors.Join(err, <-ended)
	}()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	ms, _, err = timeList(ctx, conn)
	return ms, err
}

// started is a driver that was started, as it then was.
type started struct {
	toAnswer   time.Duration
	residentMB float64
}

// startOnce starts a driver on what an earlier one has left, and ends it again.
func startOnce(ctx context.Context, e *env) (s started, err error) {
	ctx, cancel := context.WithTimeout(ctx, driverStartTimeout)
	defer cancel()
	socket := filepath.Join(e.dir, "csi.sock")
	d := &driver{cmd: driverCommand(ctx, e, socket)}
	start := time.Now()
	if err := d.cmd.Start(); err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	if err := awaitSocket(ctx, socket); err != nil {
		return s, err
	}
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return s, err
	}
	d.conns = append(d.conns, conn)
	if _, err := csi.NewIdentityClient(conn).Probe(ctx, &csi.ProbeRequest{}); err != nil {
		return s, fmt.Errorf("csi-node does not answer: %w", err)
	}
	s.toAnswer = time.Since(start)
	s.residentMB, err = residentMB(d.cmd.Process.Pid)
	return s, err
}

// awaitSocket waits until somebody takes connections: gRPC's own waiting grows too fast to measure with.
func awaitSocket(ctx context.Context, socket string) error {
	for {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(100 * time.Microsecond):
		}
	}
}

// driverCommand is csi-node with all its state below the environment's folder.
func driverCommand(ctx context.Context, e *env, socket string) *exec.Cmd {
	return exec.CommandContext(ctx, filepath.Join(e.binDir, "csi-node"),
		"--endpoint", "unix://"+socket, "--node-id", "bench", "--pool", filepath.Join(e.dir, "pool"),
		"--record-root", filepath.Join(e.dir, "records"), "--state-dir", filepath.Join(e.dir, "staged"),
		"--sandbox-dir", filepath.Join(e.dir, "sandboxes"),
		"--overcommit", "100") // the volumes stay empty, and are more than a small disk could promise
}
