package shimv2

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"

	"github.com/katadirect/katadirect/internal/version"
)

// Config is what one kind of shim does in the frame that is the same for all.
type Config struct {
	// Runtime is containerd's name of the runtime: io.containerd.NAME.v2.
	Runtime string
	// SandboxOf tells which sandbox a container belongs to; its own id if it is one. Containers of one sandbox share
	// a shim.
	SandboxOf func(bundle, id string) (string, error)
	// Serve makes the service of the daemon.
	Serve func(ctx context.Context, d Daemon) (Service, error)
	// Cleanup gives back what a sandbox used whose daemon is gone. It is idempotent, may run several times at once,
	// and has about four seconds: containerd kills it after five.
	Cleanup func(ctx context.Context, sandboxID string, log *slog.Logger) error
}

// Service is what the daemon serves.
type Service interface {
	// Register puts the service's methods on the server.
	Register(*ttrpc.Server)
	// Interceptor stands before all of them.
	Interceptor() ttrpc.UnaryServerInterceptor
	// Close ends everything in the shim. It is called once, when the daemon goes for whatever reason.
	Close(ctx context.Context) error
}

// Daemon is what the service may use of the process it runs in.
type Daemon struct {
	ID        string
	Namespace string // containerd's
	Log       *slog.Logger
	// Level is the log's: debug if containerd logs so much, and for the service to lower if its own settings say so.
	Level  *slog.LevelVar
	Events *Publisher
	// Connected tells whether containerd is: it stays so for as long as it lives.
	Connected func() bool
	// Shutdown makes the daemon go, after the answer to the call that asks for it. It returns at once.
	Shutdown func()
}

// options are the flags that containerd passes.
type options struct {
	namespace, address, publishBinary string
	id, bundle, socket                string
	debug, version, info              bool
	action                            string
}

// validID is what containerd lets an id be; ours becomes part of paths.
var validID = regexp.MustCompile(`^[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*$`)

const maxID = 128

func parse(args []string, usage io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet(filepath.Base(args[0]), flag.ContinueOnError)
	f.SetOutput(usage)
	f.StringVar(&o.namespace, "namespace", "", "containerd namespace of the container")
	f.StringVar(&o.address, "address", "", "address of containerd's gRPC socket")
	f.StringVar(&o.publishBinary, "publish-binary", "", "containerd binary to publish events with (not used)")
	f.StringVar(&o.id, "id", "", "id of the container")
	f.StringVar(&o.bundle, "bundle", "", "path of the bundle; the working directory if empty")
	f.StringVar(&o.socket, "socket", "", "path of the socket to serve; made from the other flags if empty")
	f.BoolVar(&o.debug, "debug", false, "log more")
	f.BoolVar(&o.version, "v", false, "print the version")
	f.BoolVar(&o.version, "version", false, "print the version")
	f.BoolVar(&o.info, "info", false, "print what the runtime is, as a protobuf message")
	f.Usage = func() {
		fmt.Fprintf(usage, "%s is started by containerd. Commands: start, delete. Flags:\n", f.Name())
		f.PrintDefaults()
	}
	if err := f.Parse(args[1:]); err != nil {
		return o, err
	}
	o.action = f.Arg(0)
	if o.bundle == "" {
		wd, err := os.Getwd()
		if err != nil {
			return o, err
		}
		o.bundle = wd
	}
	return o, nil
}

func (o options) check() error {
	switch {
	case o.id == "":
		return errors.New("flag -id is missing; this program is started by containerd")
	case len(o.id) > maxID || !validID.MatchString(o.id):
		return fmt.Errorf("id %q is not one of containerd's", o.id)
	case o.namespace == "":
		return errors.New("flag -namespace is missing; this program is started by containerd")
	}
	return nil
}

// Main is the shim's main function. It returns the process's exit code.
func Main(args []string, c Config) int {
	o, err := parse(args, os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err == nil {
		err = run(o, c)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(args[0]), err)
		return 1
	}
	return 0
}

func run(o options, c Config) error {
	if o.version {
		fmt.Println(version.String(filepath.Base(os.Args[0])))
		return nil
	}
	if o.info {
		return printInfo(os.Stdout, c.Runtime)
	}
	if err := o.check(); err != nil {
		return err
	}
	switch o.action {
	case "start":
		return start(o, c)
	case "delete":
		return cleanUp(o, c)
	case "":
		return serve(o, c)
	default:
		return fmt.Errorf("unknown command %q; containerd uses start and delete", o.action)
	}
}

// printInfo answers containerd 2's question what this runtime is.
func printInfo(w io.Writer, runtime string) error {
	data, err := proto.Marshal(&types.RuntimeInfo{
		Name:    runtime,
		Version: &types.RuntimeVersion{Version: version.Version, Revision: version.Revision()},
	})
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}
