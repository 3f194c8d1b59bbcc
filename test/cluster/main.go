// Command cluster keeps a Kubernetes of one node running for a person: "make cluster" and "make cluster-down" call it.
//
//	cluster up      start it and return; nothing happens if it runs
//	cluster down    stop it and remove every trace
//	cluster status  say whether it runs, and how to use it
//	cluster run     run a command inside the cluster's namespaces, where the node's /run and processes are
//	cluster push    put images from archives of "docker save" into its registry
//
// The cluster itself is internal/cluster; this program says where its state is (out/cluster) and keeps one process,
// the keeper, that holds everything: all ends with it, even when it is killed.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/katadirect/katadirect/internal/lab"
)

func main() {
	lab.Init()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	err := run(ctx, os.Args[1:])
	if inside, ok := errors.AsType[*exec.ExitError](err); ok && inside.Exited() {
		os.Exit(inside.ExitCode()) // of "run": the command has said why
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	s, err := openState()
	if err != nil {
		return err
	}
	command := ""
	if len(args) > 0 {
		command = args[0]
	}
	switch command {
	case "up":
		return up(ctx, s)
	case keepCommand:
		return keep(ctx, s)
	case "down":
		return down(ctx, s)
	case "status":
		return status(s)
	case "run":
		return runInside(s, args[1:])
	case "push":
		return push(ctx, s, args[1:])
	}
	return fmt.Errorf("%q is no command; there are up, down, status, run COMMAND and push FILE", command)
}
