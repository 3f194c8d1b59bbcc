package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"
)

// stdout runs a process that writes, by the shim's own interface: containerd's clients copy in pieces of 32 KiB through
// pipes of their own, which would be measured along.
func (w *workload) stdout(ctx context.Context, id string) (mbPerSecond float64, err error) {
	address, err := os.ReadFile(filepath.Join(w.bundle(w.app.ID), "address"))
	if err != nil {
		return 0, err
	}
	conn, err := net.Dial("unix", w.node.Lab.Path(strings.TrimPrefix(string(address), "unix://")))
	if err != nil {
		return 0, err
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	shim := taskapi.NewTTRPCTaskClient(client)

	process := *w.spec.Process
	process.Args = []string{"dd", "if=/dev/zero", "bs=1M", fmt.Sprintf("count=%d", streamBytes>>20)}
	spec, err := json.Marshal(process)
	if err != nil {
		return 0, err
	}
	fifo := filepath.Join(w.node.Lab.Dir, id)
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		return 0, err
	}
	defer os.Remove(fifo)
	// Opened for both directions it waits for nobody.
	reader, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer reader.Close()
	_, err = shim.Exec(ctx, &taskapi.ExecProcessRequest{
		ID: w.app.ID, ExecID: id, Stdout: fifo,
		Spec: &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: spec},
	})
	if err != nil {
		return 0, err
	}
	if _, err := shim.Start(ctx, &taskapi.StartRequest{ID: w.app.ID, ExecID: id}); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(reader, make([]byte, 1)); err != nil {
		return 0, err
	}
	start := time.Now()
	if _, err := io.CopyBuffer(onlyWriter{io.Discard}, io.LimitReader(reader, streamBytes-1), make([]byte, 1<<20)); err != nil {
		return 0, err
	}
	took := time.Since(start)
	if _, err := shim.Wait(ctx, &taskapi.WaitRequest{ID: w.app.ID, ExecID: id}); err != nil {
		return 0, err
	}
	_, err = shim.Delete(ctx, &taskapi.DeleteRequest{ID: w.app.ID, ExecID: id})
	return streamBytes / 1e6 / took.Seconds(), err
}

// onlyWriter hides that io.Discard reads with a small buffer of its own.
type onlyWriter struct{ io.Writer }
