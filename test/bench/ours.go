package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/agentclient"
	"github.com/katadirect/katadirect/pkg/runtime/qemu"
	"github.com/katadirect/katadirect/pkg/runtime/share"
)

// ourMachine is a machine as the shim makes it for a pod: with the file share, the bridge for disks, and our agent.
type ourMachine struct {
	dir     string
	share   *share.Share
	machine *qemu.Machine
	agent   *agentclient.Client
	console *console
}

// startOurs boots a machine and returns when its agent has answered, and how long that took, the start of the file
// share included.
func startOurs(ctx context.Context, e *env) (_ *ourMachine, boot time.Duration, err error) {
	m := &ourMachine{console: &console{}}
	if m.dir, err = os.MkdirTemp(e.dir, "ours-"); err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.stop(ctx))
		}
	}()
	log := slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	start := time.Now()
	socket := filepath.Join(m.dir, "fs.sock")
	m.share, err = share.Start(ctx, share.Config{
		ID: "bench", Root: filepath.Join(m.dir, "share"), Socket: socket,
		Daemon: "/usr/lib/qemu/virtiofsd", Cache: "auto", Log: log,
	})
	if err != nil {
		return nil, 0, err
	}
	m.machine = qemu.New(qemu.Config{
		ID: "bench", Dir: filepath.Join(m.dir, "vm"), Kernel: e.image.Kernel, Initrd: e.image.Initrd,
		Accel: e.accel, MemoryMiB: memoryMiB, VCPUs: 1, ShareSocket: socket, Log: log,
		Console: m.console,
	})
	if err := m.machine.Start(ctx); err != nil {
		return nil, 0, err
	}
	conn, err := m.machine.DialAgent(ctx)
	if err != nil {
		return nil, 0, err
	}
	m.agent = agentclient.New(conn, agentclient.Options{Log: log})
	if _, err := m.agent.GetGuestDetails(ctx, &agentproto.GuestDetailsRequest{}); err != nil {
		return nil, 0, fmt.Errorf("the agent's first answer: %w", err)
	}
	return m, time.Since(start), nil
}

// stopTimeout bounds the end of a machine, also after an interruption.
const stopTimeout = 30 * time.Second

func (m *ourMachine) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	var errs []error
	if m.agent != nil {
		errs = append(errs, m.agent.Close())
	}
	if m.machine != nil {
		errs = append(errs, m.machine.Stop(ctx))
	}
	if m.share != nil {
		errs = append(errs, m.share.Close(ctx))
	}
	return errors.Join(append(errs, os.RemoveAll(m.dir))...)
}

// console waits for what the guest says.
type console struct {
	mu     sync.Mutex
	wanted string
	said   chan struct{}
}

// await returns a channel that is closed with the first line from now on that has text in it.
func (c *console) await(text string) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wanted, c.said = text, make(chan struct{})
	return c.said
}

func (c *console) Write(line []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wanted != "" && bytes.Contains(line, []byte(c.wanted)) {
		close(c.said)
		c.wanted = ""
	}
	return len(line), nil
}
