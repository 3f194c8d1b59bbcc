// Command barettrpc is what the shim's memory is held against: a Go program that serves a ttrpc service on a unix
// socket and does nothing else.
package main

import (
	"context"
	"fmt"
	"net"
	"os"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
)

// service has every method by embedding nil: none is called.
type service struct{ task.TTRPCTaskService }

func main() {
	if err := serve(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "barettrpc:", err)
		os.Exit(1)
	}
}

func serve(socket string) error {
	s, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	task.RegisterTTRPCTaskService(s, service{})
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	return s.Serve(context.Background(), l)
}
