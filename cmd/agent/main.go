// Command agent is the guest agent. It is /init of the guest image: the first
// process of a pod's machine, which mounts volumes and runs containers there
// as the shim on the host asks it to.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/katadirect/katadirect/internal/version"
	"github.com/katadirect/katadirect/pkg/agent/boot"
	"github.com/katadirect/katadirect/pkg/agent/channel"
	"github.com/katadirect/katadirect/pkg/agent/console"
	"github.com/katadirect/katadirect/pkg/agent/container"
	"github.com/katadirect/katadirect/pkg/agent/device"
	"github.com/katadirect/katadirect/pkg/agent/guest"
	"github.com/katadirect/katadirect/pkg/agent/module"
	"github.com/katadirect/katadirect/pkg/agent/network"
	"github.com/katadirect/katadirect/pkg/agent/process"
	"github.com/katadirect/katadirect/pkg/agent/reaper"
	"github.com/katadirect/katadirect/pkg/agent/sandbox"
	"github.com/katadirect/katadirect/pkg/agent/server"
	"github.com/katadirect/katadirect/pkg/agent/storage"
)

func main() {
	showVersion := flag.Bool("version", false, "print the version and exit")
	// The kernel hands words of its command line that it does not know to
	// the first process; they are none of flag's.
	if os.Getpid() != 1 {
		flag.Parse()
		if *showVersion {
			fmt.Println(version.String("agent"))
			return
		}
		fmt.Fprintln(os.Stderr, "agent: it is the first process of a guest machine, and runs nowhere else")
		os.Exit(2)
	}
	console := boot.NewConsole()
	err := run(context.Background(), console)
	if err != nil {
		slog.Error("the agent cannot go on", "error", err)
		console.Attach("/dev/hvc0", "/dev/console")
	}
	console.Flush(time.Second)
	if err := boot.PowerOff(); err != nil {
		panic(err)
	}
}

// run is the machine's life, from the kernel's hand to DestroySandbox.
func run(ctx context.Context, console *boot.Console) error {
	// A small heap is worth more than processor time here.
	debug.SetGCPercent(50)
	if err := errors.Join(boot.Settle(), boot.MountEarly()); err != nil {
		return err
	}
	params, err := boot.ReadCmdline()
	if err != nil {
		return err
	}
	slog.SetDefault(slog.New(slog.NewJSONHandler(console, &slog.HandlerOptions{Level: params.LogLevel})))
	events, err := device.Listen()
	if err != nil {
		return err
	}
	defer events.Close()
	modules, err := module.Open(module.ListPath)
	if err != nil {
		return err
	}
	if err := modules.Load(module.Boot); err != nil {
		return err
	}
	if err := boot.MountLate(); err != nil {
		return err
	}
	if err := errors.Join(boot.EnableControllers(), boot.LoopbackUp()); err != nil {
		return err
	}
	console.Attach("/dev/hvc0", "/dev/console")
	return serve(ctx, params, modules, events)
}

// serve answers the host until it destroys the sandbox.
func serve(ctx context.Context, params boot.Params, modules *module.Loader, events *device.Events) error {
	reap := reaper.New()
	defer reap.Stop()
	finder := &device.Finder{Events: events}
	mounts := &storage.Mounts{Finder: finder, Modules: modules, Tools: reap.Output, DeviceTimeout: params.HotplugTimeout}
	crun, err := container.Seal("/usr/bin/crun")
	if err != nil {
		return err
	}
	runtime := &container.Runtime{
		Reaper: reap, Crun: crun, Dir: sandbox.Dir, State: "/run/crun", Cgroups: boot.CgroupRoot,
		PipeSize: params.PipeSize,
	}
	if runtime.PipeSize == 0 {
		runtime.PipeSize = process.DefaultPipeSize
	}
	ended := make(chan struct{})
	var debug *console.Console
	if params.DebugConsole {
		debug = &console.Console{Reaper: reap, Shell: []string{"/bin/sh", "-i"}, Busybox: "/bin/busybox", Cgroups: boot.ConsoleCgroups}
	}
	srv, err := server.New(&server.Service{
		Sandbox: sandbox.New(runtime, mounts, modules),
		Console: debug, PipeSize: runtime.PipeSize,
		Network: &network.Network{Finder: finder, Modules: modules, Tools: reap.Output},
		End:     sync.OnceFunc(func() { close(ended) }),
		Forget:  guest.DropCaches,
	})
	if err != nil {
		return err
	}
	if module.Has(module.VsockDevice) {
		if err := modules.Load(module.Vsock); err != nil {
			return err
		}
	}
	address := params.ServerAddr
	if address == "" {
		address = channel.Default()
	}
	wait, cancel := context.WithTimeout(ctx, channelTimeout)
	defer cancel()
	listener, err := channel.Listen(wait, address, events)
	if err != nil {
		return err
	}
	if debug != nil && params.DebugConsolePort != 0 && module.Has(module.VsockDevice) {
		if err := serveConsole(ctx, debug, params.DebugConsolePort); err != nil {
			return err
		}
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, listener) }()
	slog.Info("the agent serves", "address", address, "version", version.Version)
	if module.Has(module.EntropyDevice) {
		if err := modules.Load(module.Entropy); err != nil {
			slog.Warn("the host's random numbers cannot be had", "error", err)
		}
	}
	select {
	case err := <-served:
		return fmt.Errorf("serve on %s: %w", address, err)
	case <-ended:
	}
	wait, cancel = context.WithTimeout(ctx, farewell)
	defer cancel()
	// An error here says that somebody still waits for an answer, who will
	// not get one.
	_ = srv.Shutdown(wait)
	return nil
}

// serveConsole offers the debug console to Kata's own tool, which connects to a
// vsock port. It lasts as long as the machine.
func serveConsole(ctx context.Context, c *console.Console, port int) error {
	listener, err := channel.Listen(ctx, fmt.Sprintf("vsock://-1:%d", port), nil)
	if err != nil {
		return fmt.Errorf("debug console: %w", err)
	}
	go func() {
		if err := c.Serve(ctx, listener); err != nil {
			slog.Error("the debug console has ended", "error", err)
		}
	}()
	slog.Warn("the debug console is open: whoever reaches it has all of this guest", "port", port)
	return nil
}

const (
	// channelTimeout bounds the wait for the agent channel to appear.
	channelTimeout = 30 * time.Second
	// farewell bounds the wait for the last answer to be sent.
	farewell = time.Second
)
