// Command bench measures what the README and the documents say about speed, and writes out/bench.json, a table, and
// docs/bench.svg. Each figure stands beside a floor: the least that the same job costs on the same machine, done
// without any of our code. Runs of the two take turns, so that both see the same noise; medians count.
//
// "make bench" runs it, after building the programs and the guest. It needs root and runs machines.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/katadirect/katadirect/internal/guestimage"
	"github.com/katadirect/katadirect/internal/lab"
)

// A measurement makes one or more figures.
type measurement struct {
	name string
	runs int // by default
	run  func(ctx context.Context, e *env, runs int) ([]Figure, error)
}

// measurements in the order of the table.
var measurements = []measurement{
	{"boot", 10, measureBoot},
	{"hotplug", 10, measureHotplug},
	{"resize", 10, measureResize},
	{"snapshot-freeze", 10, measureSnapshot},
	{"memory", 3, measureMemory},
	{"create", 5, measureCreate},
	{"cycle", 5, measureCycle},
	{"volumes", 5, measureVolumes},
	{"files", 3, measureFiles},
	{"network", 5, measureNetwork},
	{"pod", 5, measurePod},
	{"exec", 20, measureExec},
	{"stdout", 5, measureStdout},
	{"execs", 1, measureGrowth},
}

// measurementTimeout bounds one measurement, whatever goes wrong in it.
const measurementTimeout = 10 * time.Minute

// env is what every measurement finds ready.
type env struct {
	dir       string // for files of the run, on a disk
	binDir    string // our programs
	accel     string // "kvm" or "tcg"
	image     guestimage.Image
	bareImage guestimage.Image
	crunImage guestimage.Image // the pods' own, but for its init
	bareTTRPC string           // program
	load      string           // program
}

// ownGarbage is how much, in percent, this program lets its heap grow: clients share two processors with what is measured,
// and their garbage is not what is asked about.
const ownGarbage = 1000

func main() {
	lab.Init()
	debug.SetGCPercent(ownGarbage)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := bench(ctx, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	only            string
	runs            int
	bin, image      string
	out, svg, accel string
}

func bench(ctx context.Context, args []string) error {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&o.only, "only", "", "measure only these, by name, separated by commas: "+strings.Join(names(), ", "))
	f.IntVar(&o.runs, "runs", 0, "runs of each measurement (default: its own number)")
	f.StringVar(&o.bin, "bin", "bin", "folder of the built programs")
	f.StringVar(&o.image, "image", "", "folder of the guest image (default: katadirect guest build's)")
	f.StringVar(&o.accel, "accel", "", "kvm or tcg (default: what works here)")
	f.StringVar(&o.out, "out", "out/bench.json", "file for the figures")
	f.StringVar(&o.svg, "svg", "docs/bench.svg", "file for the drawing; made only when everything was measured")
	if err := f.Parse(args); err != nil {
		return err
	}
	chosen, err := choose(o.only)
	if err != nil {
		return err
	}
	e, err := prepare(ctx, o)
	if err != nil {
		return err
	}
	defer os.RemoveAll(e.dir)
	report, err := e.measure(ctx, chosen, o.runs)
	if len(report.Figures) == 0 {
		return err
	}
	table(os.Stdout, report)
	err = errors.Join(err, report.Write(o.out))
	if err == nil && len(chosen) == len(measurements) {
		err = os.WriteFile(o.svg, drawing(report), 0o644)
	}
	return err
}

func names() []string {
	var all []string
	for _, m := range measurements {
		all = append(all, m.name)
	}
	return all
}

func choose(only string) ([]measurement, error) {
	if only == "" {
		return measurements, nil
	}
	var chosen []measurement
	for name := range strings.SplitSeq(only, ",") {
		i := slices.Index(names(), name)
		if i < 0 {
			return nil, fmt.Errorf("nothing called %q is measured: use %s", name, strings.Join(names(), ", "))
		}
		chosen = append(chosen, measurements[i])
	}
	return chosen, nil
}

// measure takes one measurement after the other. One that fails does not keep the others from being made.
func (e *env) measure(ctx context.Context, chosen []measurement, runs int) (*Report, error) {
	report := &Report{Figures: []Figure{}}
	var errs []error
	for _, m := range chosen {
		if ctx.Err() != nil {
			break
		}
		n := m.runs
		if runs > 0 {
			n = runs
		}
		fmt.Fprintf(os.Stderr, "%s: %d runs\n", m.name, n)
		start := time.Now()
		ctx, cancel := context.WithTimeout(ctx, measurementTimeout)
		figures, err := m.run(ctx, e, n)
		cancel()
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.name, err))
			fmt.Fprintf(os.Stderr, "%s: %v\n", m.name, err)
			continue
		}
		fmt.Fprintf(os.Stderr, "%s: done in %.0f s\n", m.name, time.Since(start).Seconds())
		report.Figures = append(report.Figures, figures...)
	}
	return report, errors.Join(append(errs, ctx.Err())...)
}

// prepare finds our programs and builds the floor's.
func prepare(ctx context.Context, o options) (_ *env, err error) {
	e := &env{accel: o.accel}
	if e.binDir, err = filepath.Abs(o.bin); err != nil {
		return nil, err
	}
	if e.image, err = guestimage.Open(o.image); err != nil {
		return nil, err
	}
	if e.accel == "" {
		if e.accel, err = detectAccel(ctx, e.image); err != nil {
			return nil, err
		}
	}
	// Not below /tmp, which may be memory: the pool is to be on a disk.
	if e.dir, err = os.MkdirTemp("/var/tmp", "katadirect-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(e.dir)
		}
	}()
	init := filepath.Join(e.dir, "bareguest")
	e.bareTTRPC = filepath.Join(e.dir, "barettrpc")
	e.load = filepath.Join(e.dir, "load")
	for program, source := range map[string]string{init: "bareguest", e.bareTTRPC: "barettrpc", e.load: "load"} {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program,
			"github.com/katadirect/katadirect/test/bench/"+source)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build %s: %w: %s", source, err, out)
		}
	}
	e.bareImage, err = guestimage.Build(ctx, guestimage.Options{
		Output: filepath.Join(e.dir, "guest"), AgentPath: init, Bare: true,
	})
	if err != nil {
		return nil, err
	}
	e.crunImage, err = guestimage.Build(ctx, guestimage.Options{
		Output: filepath.Join(e.dir, "crun-guest"), AgentPath: init,
	})
	return e, err
}
