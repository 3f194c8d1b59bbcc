package qemu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"

	"github.com/katadirect/katadirect/internal/accel"
)

// trialMemoryMiB is enough for the guest image and the agent.
const trialMemoryMiB = 256

// KVMTrial is how internal/accel finds out whether machines like c can use KVM: it boots c's guest image, without
// share and disks, and waits for the agent to open its port. Only QEMU, Kernel, Initrd and KernelParams of c count.
func KVMTrial(c Config) accel.Trial {
	c.QEMU = cmp.Or(c.QEMU, defaultQEMU)
	return accel.Trial{Subject: subject(c), Boot: func(ctx context.Context, dir string) (err error) {
		m := New(Config{
			ID: "kvm-trial", Dir: dir, QEMU: c.QEMU, Kernel: c.Kernel, Initrd: c.Initrd, KernelParams: c.KernelParams,
			Accel: AccelKVM, MemoryMiB: trialMemoryMiB, Log: slog.New(slog.DiscardHandler), // a failure is a result, not news
		})
		if err := m.Start(ctx); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, m.Stop(context.WithoutCancel(ctx))) }()
		conn, err := m.DialAgent(ctx)
		if err != nil {
			return err
		}
		return conn.Close()
	}}
}

// subject changes when a file that the trial boots does.
func subject(c Config) string {
	program, err := exec.LookPath(c.QEMU)
	if err != nil {
		program = c.QEMU
	}
	words := []string{}
	for _, path := range []string{program, c.Kernel, c.Initrd} {
		info, err := os.Stat(path)
		if err != nil {
			words = append(words, path+" missing")
			continue
		}
		words = append(words, fmt.Sprintf("%s %d %d", path, info.Size(), info.ModTime().UnixNano()))
	}
	return strings.Join(append(words, c.KernelParams...), "; ")
}
