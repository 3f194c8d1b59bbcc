// Package accel finds out which accelerator a host's machines can use. A /dev/kvm that is there and answers may still
// not be able to run a guest (nested virtualisation is where it happens), so the only proof is a guest that boots.
// That costs seconds where it fails, so the outcome is remembered until the host boots again.
//
// It is called by pkg/runtime/qemu before a machine starts, and by `katadirect check`. How a guest is booted is the
// caller's business: nothing here may know of QEMU.
package accel

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/durable"
)

// Accelerators, as QEMU spells them.
const (
	KVM = "kvm"
	TCG = "tcg"
)

// DefaultTimeout bounds the trial. A guest under a KVM that works answers in a tenth of that.
const DefaultTimeout = 5 * time.Second

// Trial says how to find out. Only Boot must be set.
type Trial struct {
	// Boot boots a guest with KVM, waits until it answers, and ends it. It may put what it needs into dir, which
	// is there, empty, and removed afterwards. It must return soon after ctx has ended.
	Boot func(ctx context.Context, dir string) error
	// Subject names what Boot boots, in a way that changes when it changes. A failure is remembered for one
	// subject only: it may have been the guest's, and go away with the next guest image.
	Subject string
	// StateDir is where the outcome is remembered, /run/katadirect if empty. It must not outlive the host's boot
	// by being anything but a tmpfs, though it does no harm if it does.
	StateDir string
	// KVMDevice is /dev/kvm and BootIDFile /proc/sys/kernel/random/boot_id if empty.
	KVMDevice, BootIDFile string
	// Timeout is DefaultTimeout if zero.
	Timeout time.Duration
}

// Result is what Detect found.
type Result struct {
	// Accel is KVM or TCG.
	Accel string `json:"accel"`
	// Reason says why, in a sentence for a person.
	Reason string `json:"reason"`
	// Cached is true if the trial was made earlier.
	Cached bool `json:"-"`
}

// memory is the content of the state file.
type memory struct {
	Result
	BootID  string `json:"boot_id"`
	Subject string `json:"subject"`
}

// Detect returns the accelerator to use. Callers at the same time, in any process, share one trial. It fails only
// when ctx ends or the state folder cannot be used; a trial that fails is the answer TCG.
func Detect(ctx context.Context, t Trial) (Result, error) {
	t = t.withDefaults()
	if why := unusable(t.KVMDevice); why != "" {
		return Result{Accel: TCG, Reason: why}, nil
	}
	bootID, err := os.ReadFile(t.BootIDFile)
	if err != nil {
		return Result{}, fmt.Errorf("detect the accelerator: %w", err)
	}
	wanted := memory{BootID: strings.TrimSpace(string(bootID)), Subject: t.Subject}
	if r, ok := t.recall(wanted); ok {
		return r, nil
	}
	unlock, err := t.lock(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("detect the accelerator: %w", err)
	}
	defer unlock()
	if r, ok := t.recall(wanted); ok { // somebody else made the trial meanwhile
		return r, nil
	}
	wanted.Result, err = t.try(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("detect the accelerator: %w", err)
	}
	if err := t.remember(wanted); err != nil {
		return Result{}, fmt.Errorf("detect the accelerator: %w", err)
	}
	return wanted.Result, nil
}

func (t Trial) withDefaults() Trial {
	t.StateDir = cmp.Or(t.StateDir, "/run/katadirect")
	t.KVMDevice = cmp.Or(t.KVMDevice, "/dev/kvm")
	t.BootIDFile = cmp.Or(t.BootIDFile, "/proc/sys/kernel/random/boot_id")
	t.Timeout = cmp.Or(t.Timeout, DefaultTimeout)
	return t
}

// unusable says why there is nothing to try, or "".
func unusable(device string) string {
	kvm, err := os.OpenFile(device, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return "this host has no " + device
	}
	if err != nil {
		return fmt.Sprintf("KVM cannot be used: %v", err)
	}
	_ = kvm.Close() // nothing was written
	return ""
}

func (t Trial) stateFile() string { return filepath.Join(t.StateDir, "accel.json") }

// recall returns what an earlier trial found, if it still holds. A file that cannot be read is as good as none: the
// next trial replaces it.
func (t Trial) recall(wanted memory) (Result, bool) {
	text, err := os.ReadFile(t.stateFile())
	if err != nil {
		return Result{}, false
	}
	var found memory
	if json.Unmarshal(text, &found) != nil || found.BootID != wanted.BootID {
		return Result{}, false
	}
	if found.Accel != KVM && (found.Accel != TCG || found.Subject != wanted.Subject) {
		return Result{}, false
	}
	found.Cached = true
	return found.Result, true
}

func (t Trial) remember(m memory) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return durable.WriteFile(t.stateFile(), append(text, '\n'), 0o600)
}

// lock waits until no other process is trying.
func (t Trial) lock(ctx context.Context) (unlock func(), err error) {
	if err := os.MkdirAll(t.StateDir, 0o700); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(t.StateDir, "accel.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	const pause = 20 * time.Millisecond // flock knows no time-out
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = file.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(err, file.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), file.Close())
		case <-time.After(pause):
		}
	}
}

// try makes the trial. Its error is the caller's context or a folder that cannot be made, never the guest.
func (t Trial) try(ctx context.Context) (_ Result, err error) {
	dir := filepath.Join(t.StateDir, "trial")
	if err := os.RemoveAll(dir); err != nil { // of a trial that was killed
		return Result{}, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	bounded, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	began := time.Now()
	failure := t.Boot(bounded, dir)
	switch {
	case failure == nil:
		took := time.Since(began).Round(time.Millisecond)
		return Result{Accel: KVM, Reason: fmt.Sprintf("a trial guest answered in %s", took)}, nil
	case ctx.Err() != nil:
		return Result{}, context.Cause(ctx)
	case bounded.Err() != nil:
		return Result{Accel: TCG, Reason: fmt.Sprintf("KVM is there, but a trial guest did not answer within %s: %v", t.Timeout, failure)}, nil
	}
	return Result{Accel: TCG, Reason: fmt.Sprintf("KVM is there, but a trial guest failed: %v", failure)}, nil
}
