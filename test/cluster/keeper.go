package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/accel"
	"github.com/katadirect/katadirect/internal/cluster"
	"github.com/katadirect/katadirect/internal/cluster/images"
	"github.com/katadirect/katadirect/internal/guestimage"
	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/pkg/runtime/qemu"
)

const (
	// keepCommand is the command line of the keeper; people say "up".
	keepCommand = "keep"
	// progressFD is where the keeper tells "up" what it has done, and ready that it is done.
	progressFD = 3
	ready      = "ready"
	// downTimeout bounds the end of a cluster with many pods.
	downTimeout = 3 * time.Minute
)

// up starts the keeper, shows what it does and returns when the cluster is ready.
func up(ctx context.Context, s *state) error {
	if _, err := s.keeper(); err == nil {
		fmt.Println("the cluster runs already")
		return status(s)
	}
	fromKeeper, toUs, err := os.Pipe()
	if err != nil {
		return err
	}
	log, err := os.Create(s.log())
	if err != nil {
		return err
	}
	keeper := exec.Command("/proc/self/exe", keepCommand)
	keeper.Args[0] = os.Args[0] // for ps
	keeper.Stdout, keeper.Stderr, keeper.ExtraFiles = log, log, []*os.File{toUs}
	keeper.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	start := time.Now()
	err = keeper.Start()
	_, _ = toUs.Close(), log.Close()
	if err != nil {
		return err
	}
	// An interrupted "up" takes the keeper with it, which then undoes what it has done.
	stop := context.AfterFunc(ctx, func() { _ = keeper.Process.Signal(syscall.SIGTERM) })
	defer stop()
	for lines := bufio.NewScanner(fromKeeper); lines.Scan(); {
		if lines.Text() == ready {
			return status(s)
		}
		fmt.Printf("[%5.1f s] %s\n", time.Since(start).Seconds(), lines.Text())
	}
	err = keeper.Wait()
	return fmt.Errorf("the cluster did not start (%w); the end of %s:\n%s", errors.Join(err, ctx.Err()), s.log(), s.logTail())
}

// keep opens the cluster and holds it until it is told to end.
func keep(ctx context.Context, s *state) error {
	progress := os.NewFile(progressFD, "progress")
	lock, err := s.lock()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errors.New("another keeper has just started")
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	c, err := open(ctx, s, progress)
	if err != nil {
		return err
	}
	err = publish(s, c)
	if err == nil {
		fmt.Fprintln(progress, ready)
		_ = progress.Close()
		<-ctx.Done()
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), downTimeout)
	defer cancel()
	left, closeErr := c.Close(closing)
	if len(left) > 0 {
		closeErr = errors.Join(closeErr, fmt.Errorf("left over:\n%s", strings.Join(left, "\n")))
	}
	return errors.Join(err, closeErr, s.clear())
}

func open(ctx context.Context, s *state, progress io.Writer) (*cluster.Cluster, error) {
	binDir, err := programsDir()
	if err != nil {
		return nil, err
	}
	guest, err := guestimage.Build(ctx, guestimage.Options{
		Output: filepath.Join(s.dir, "guest"), AgentPath: filepath.Join(binDir, "agent"), Debug: true,
	})
	if err != nil {
		return nil, fmt.Errorf("build what machines boot: %w", err)
	}
	result, err := accel.Detect(ctx, qemu.KVMTrial(qemu.Config{Kernel: guest.Kernel, Initrd: guest.Initrd}))
	if err != nil {
		return nil, err
	}
	fmt.Fprintln(progress, runsBy(result))
	programs, err := cluster.Programs(lab.DefaultCache())
	if err != nil {
		return nil, err
	}
	all, err := images.Available(programs)
	if err != nil {
		return nil, err
	}
	return cluster.Open(ctx, cluster.Options{
		BinDir: binDir, Guest: guest, Images: all, DebugConsole: true,
		DefaultHandler: os.Getenv("KATADIRECT_CLUSTER_DEFAULT_HANDLER"),
		Progress:       func(done string) { fmt.Fprintln(progress, done) },
	})
}

// runsBy says what machines run by here: most of how fast they are.
func runsBy(r accel.Result) string {
	if r.Accel == accel.KVM {
		return "machines will run by KVM"
	}
	return "machines will run by emulation (TCG), several times slower: " + r.Reason
}

// publish writes what others use.
func publish(s *state, c *cluster.Cluster) error {
	kubeconfig, err := os.ReadFile(c.Kubeconfig())
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(s.kubeconfig(), kubeconfig, 0o600),
		s.write(info{PID: os.Getpid(), Init: c.InitPID(), Dir: c.Dir(), Programs: c.Program(""), Registry: c.Registry()}))
}

// down ends the keeper and says what it left, which is nothing.
func down(ctx context.Context, s *state) error {
	pid, err := s.keeper()
	if errors.Is(err, errNotRunning) {
		fmt.Println("no cluster is running")
		return errors.Join(s.forget(), cluster.Sweep())
	}
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		return fmt.Errorf("tell the keeper (pid %d) to end: %w", pid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, downTimeout+10*time.Second)
	defer cancel()
	if err := s.waitFree(ctx); err != nil {
		return fmt.Errorf("the cluster does not end (%w); the end of %s:\n%s", err, s.log(), s.logTail())
	}
	if said := s.logTail(); said != "" {
		return fmt.Errorf("the cluster has ended with a fault:\n%s", said)
	}
	fmt.Println("the cluster is gone")
	return s.forget()
}
