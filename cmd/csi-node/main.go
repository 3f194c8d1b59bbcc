// Command csi-node is the CSI driver csi.katadirect.io: the identity, controller and node services for the volumes of
// one node. It reads its flags, wires pkg/csi and runs it; docs/csi.md says what it does.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/katadirect/katadirect/internal/version"
	"github.com/katadirect/katadirect/pkg/csi"
	"github.com/katadirect/katadirect/pkg/csi/mode"
	"github.com/katadirect/katadirect/pkg/csi/stage"
	"github.com/katadirect/katadirect/pkg/csi/telemetry"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

const program = "csi-node"

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	tune()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// options are the flags.
type options struct {
	endpoint    string
	driver      csi.Config
	observing   observing
	registering registering
	logFormat   string
	logLevel    slog.Level
	source      string // of what Kubernetes knows
	version     bool
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return exitUsage // said by the flag set
	case o.version:
		fmt.Fprintln(stdout, version.String(program))
		return 0
	}
	if o.driver.Log, err = logger(stderr, o.logFormat, o.logLevel); err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", program, err)
		return exitUsage
	}
	if err := serve(ctx, o); err != nil {
		o.driver.Log.Error("ended with an error", "error", err)
		return exitFailed
	}
	return 0
}

func parse(args []string, stderr io.Writer) (options, error) {
	o := options{driver: csi.Config{Machines: mode.DefaultMachines}}
	hostname, _ := os.Hostname()
	flags := flag.NewFlagSet(program, flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.endpoint, "endpoint", "unix:///run/katadirect/csi/csi.sock", "unix socket to serve on")
	flags.StringVar(&o.driver.NodeID, "node-id", hostname, "name of this node")
	flags.StringVar(&o.driver.PoolDir, "pool", "/var/lib/katadirect/pool", "folder that holds the volumes")
	flags.Float64Var(&o.driver.Overcommit, "overcommit", 1, "bytes that may be promised to volumes for each that the pool's disk has: 1 (none) to 100")
	flags.IntVar(&o.driver.MaxVolumes, "max-volumes", 0, "volumes that may be in use on this node at once (default: 30 for each 128 MiB of its memory)")
	flags.DurationVar(&o.driver.FreezeLimit, "freeze-limit", csi.DefaultFreezeLimit, "how long a file system in use may stand still for a snapshot, up to 1m")
	flags.StringVar(&o.driver.RecordRoot, "record-root", directvolume.DefaultRoot, "folder of the direct-volume records, as the runtime has it")
	flags.StringVar(&o.driver.StateDir, "state-dir", stage.DefaultDir, "folder of what is staged; below /run, so that it does not outlive a reboot")
	flags.StringVar(&o.driver.Sandboxes.GoDir, "sandbox-dir", directvolume.DefaultGoDir, "folder of the runtime's sandboxes")
	kubernetesFlags(flags, &o.source, &o.driver)
	o.registering.flags(flags)
	o.observing.flags(flags)
	flags.StringVar(&o.logFormat, "log-format", "text", "text or json")
	flags.TextVar(&o.logLevel, "log-level", slog.LevelInfo, "debug, info, warn or error")
	flags.BoolVar(&o.version, "version", false, "print the version and exit")
	err := flags.Parse(args)
	if err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	} else {
		err = errors.Join(absolute(flags, "pool", "record-root", "state-dir", "sandbox-dir",
			"plugin-registration-path", "kubelet-registration-path"), o.observing.check())
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
	}
	return o, err
}

// absolute refuses folders that mean another one when the program is started elsewhere: the volumes would seem gone.
func absolute(flags *flag.FlagSet, names ...string) error {
	for _, name := range names {
		if value := flags.Lookup(name).Value.String(); value != "" && !filepath.IsAbs(value) {
			return fmt.Errorf("--%s %q is not an absolute path", name, value)
		}
	}
	return nil
}

func logger(w io.Writer, format string, level slog.Level) (*slog.Logger, error) {
	o := &slog.HandlerOptions{Level: level}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return nil, fmt.Errorf("--log-format %q is neither text nor json", format)
}

// serve opens the state before the socket, so that whoever can connect gets answers.
func serve(ctx context.Context, o options) (err error) {
	tracing, err := telemetry.StartTracing(ctx, program, version.Version, o.driver.NodeID, o.driver.Log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tracing.Close()) }()
	observed, err := o.observing.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, observed.close()) }()
	o.driver.Calls, o.driver.ServerOptions = observed.calls(), tracing.ServerOptions()

	watching, stop := context.WithCancel(ctx)
	cluster, wait, err := watchKubernetes(watching, o.source, o.driver.NodeID, o.driver.Log)
	if err != nil {
		stop()
		return err
	}
	defer wait()
	var pages sync.WaitGroup
	defer pages.Wait()
	defer stop()
	o.driver.Cluster = cluster
	driver, err := csi.Open(ctx, o.driver)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, driver.Close()) }()
	listener, err := csi.Listen(ctx, o.endpoint)
	if err != nil {
		return err
	}
	o.driver.Log.Info("serving", "version", version.Version, "endpoint", o.endpoint, "node", o.driver.NodeID,
		"pool", o.driver.PoolDir, "kubernetes", o.source, "http", observed.addr(), "tracing", tracing != nil)
	releasePages()
	pages.Go(func() { releasePagesNowAndThen(watching) })
	return together(ctx,
		func(ctx context.Context) error { return o.registering.keep(ctx, o) },
		func(ctx context.Context) error { return driver.Serve(ctx, listener) },
		func(ctx context.Context) error { return observed.serve(ctx, o, driver) })
}

// together registers the driver and serves CSI and HTTP until ctx ends or one of them fails. HTTP goes on while the last
// calls finish, so that health checks see the end coming.
func together(ctx context.Context, register, serveCSI, serveHTTP func(context.Context) error) error {
	group, ctx := errgroup.WithContext(ctx)
	httpCtx, endHTTP := context.WithCancel(context.WithoutCancel(ctx))
	group.Go(func() error {
		defer endHTTP()
		return serveCSI(ctx)
	})
	group.Go(func() error { return serveHTTP(httpCtx) })
	group.Go(func() error { return register(ctx) })
	return group.Wait()
}
