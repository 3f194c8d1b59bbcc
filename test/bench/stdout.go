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
	if mbPerSecond, err = readStream(reader, streamBytes); err != nil {
		return 0, err
	}
	if _, err := shim.Wait(ctx, &taskapi.WaitRequest{ID: w.app.ID, ExecID: id}); err != nil {
		return 0, err
	}
	_, err = shim.Delete(ctx, &taskapi.DeleteRequest{ID: w.app.ID, ExecID: id})
	return mbPerSecond, err
}

// readStream reads so many bytes and returns how fast they came, from the first to the last. It is the reader of both
// streams that are compared.
func readStream(from io.Reader, bytes int64) (mbPerSecond float64, err error) {
	if _, err := io.ReadFull(from, make([]byte, 1)); err != nil {
		return 0, err
	}
	start := time.Now()
	n, err := io.CopyBuffer(onlyWriter{io.Discard}, io.LimitReader(from, bytes-1), make([]byte, 1<<20))
	took := time.Since(start)
	if err == nil && n < bytes-1 {
		err = io.ErrUnexpectedEOF
	}
	return float64(n) / 1e6 / took.Seconds(), err
}

// onlyWriter hides that io.Discard reads with a small buffer of its own.
type onlyWriter struct{ io.Writer }
