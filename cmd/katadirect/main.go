// Command katadirect is the operator's tool on a node: it reads and writes the records of direct volumes, shows what
// has them, says whether the host can run them, and makes the guest image.
//
// The commands only read flags, call one package and print. What they do is in pkg/directvolume (records and the
// management socket), internal/inventory (volumes of the node), internal/check, internal/guestimage and
// internal/demo; it must stay there.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/katadirect/katadirect/internal/lab"
)

func main() {
	lab.Init() // the demo's namespaces are held by this program under another name
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program without the process: it returns the exit status.
func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := withSignals(context.Background(), stderr)
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err != nil && !errors.Is(err, errSilent) && !errors.As(err, new(programStatus)) {
		fmt.Fprintf(stderr, "katadirect: %v\n", err)
	}
	return exitStatus(ctx, err)
}
