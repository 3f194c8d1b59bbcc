// Command kubectl-katadirect is a plugin of kubectl: `kubectl katadirect volumes|describe|top` shows the claims whose
// volumes katadirect has, which pod and machine uses each, how full and how well it is, and what went wrong last.
//
// The commands only read flags, ask package claims and print. docs/kubectl.md says what they need and show.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/klog/v2"

	"github.com/katadirect/katadirect/internal/claims"
)

// Exit statuses. Scripts rely on them: they are in the help, and never change their meaning.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitNoCluster   = 4
	exitInterrupted = 130
)

const exitHelp = `Exit status:
  0    shown; what could not be found out is said on standard error, and under "notes" in JSON
  1    failed
  2    flags or arguments that cannot be meant
  3    no such claim, or its volume is another driver's
  4    no kubeconfig, or the cluster does not answer or does not let you in
  130  interrupted`

// usageError is an error in what the user has typed, accessError one in reaching the cluster.
type (
	usageError  struct{ error }
	accessError struct{ error }
)

func (e usageError) Unwrap() error  { return e.error }
func (e accessError) Unwrap() error { return e.error }

func main() {
	klog.LogToStderr(false) // client-go's own warnings would stand in the middle of the table
	klog.SetOutput(io.Discard)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program without the process: it returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if ctx.Err() != nil {
		return exitInterrupted
	}
	if err != nil {
		fmt.Fprintf(stderr, "error: %v\n", err)
	}
	return exitStatus(err)
}

func exitStatus(err error) int {
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, new(usageError)):
		return exitUsage
	case errors.Is(err, claims.ErrNotFound):
		return exitNotFound
	case errors.As(err, new(accessError)), apierrors.IsUnauthorized(err), apierrors.IsForbidden(err), unreachable(err):
		return exitNoCluster
	}
	return exitFailed
}
