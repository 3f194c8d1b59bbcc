package accel_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/katadirect/katadirect/internal/accel"
)

// newTrial is a trial on a host with a /dev/kvm, whose guest does what boot does.
func newTrial(t *testing.T, boot func(ctx context.Context, dir string) error) accel.Trial {
	t.Helper()
	dir := t.TempDir()
	trial := accel.Trial{
		Boot: boot, Subject: "image 1", StateDir: filepath.Join(dir, "state"),
		KVMDevice: filepath.Join(dir, "kvm"), BootIDFile: filepath.Join(dir, "boot_id"), Timeout: 100 * time.Millisecond,
	}
	write(t, trial.KVMDevice, "")
	write(t, trial.BootIDFile, "boot 1\n")
	return trial
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func detect(t *testing.T, trial accel.Trial) accel.Result {
	t.Helper()
	r, err := accel.Detect(t.Context(), trial)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func answers(context.Context, string) error { return nil }

func hangs(ctx context.Context, _ string) error {
	<-ctx.Done()
	return errors.New("no answer")
}

func fails(context.Context, string) error { return errors.New("KVM internal error") }

func TestTheTrialDecides(t *testing.T) {
	for _, tc := range []struct {
		name  string
		boot  func(context.Context, string) error
		accel string
		why   string
	}{
		{"a guest that answers", answers, accel.KVM, "answered in"},
		{"a guest that hangs", hangs, accel.TCG, "did not answer within 100ms: no answer"},
		{"a guest that fails", fails, accel.TCG, "KVM internal error"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			trial := newTrial(t, tc.boot)
			first := detect(t, trial)
			if first.Accel != tc.accel || first.Cached || !strings.Contains(first.Reason, tc.why) {
				t.Errorf("got %+v, want %s because %q", first, tc.accel, tc.why)
			}
			trial.Boot = func(context.Context, string) error { t.Error("a second trial was made"); return nil }
			if second := detect(t, trial); second.Accel != tc.accel || !second.Cached || second.Reason != first.Reason {
				t.Errorf("remembered %+v of %+v", second, first)
			}
			info, err := os.Stat(filepath.Join(trial.StateDir, "accel.json"))
			if err != nil || info.Mode() != 0o600 {
				t.Errorf("state file: %v, %v", info.Mode(), err)
			}
		})
	}
}

func TestWhatWasFoundHoldsUntilItMayHaveChanged(t *testing.T) {
	for _, tc := range []struct {
		name   string
		before func(context.Context, string) error
		change func(*testing.T, *accel.Trial)
		again  bool
	}{
		{"success holds for any image", answers, func(_ *testing.T, tr *accel.Trial) { tr.Subject = "image 2" }, false},
		{"failure does not hold for the next image", fails, func(_ *testing.T, tr *accel.Trial) { tr.Subject = "image 2" }, true},
		{"a new boot of the host", answers, func(t *testing.T, tr *accel.Trial) { write(t, tr.BootIDFile, "boot 2\n") }, true},
		{"a state file that is torn", answers, func(t *testing.T, tr *accel.Trial) {
			write(t, filepath.Join(tr.StateDir, "accel.json"), `{"accel":"kv`)
		}, true},
		{"a state file with nonsense", answers, func(t *testing.T, tr *accel.Trial) {
			write(t, filepath.Join(tr.StateDir, "accel.json"), `{"accel":"warp","boot_id":"boot 1","subject":"image 1"}`)
		}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			trial := newTrial(t, tc.before)
			detect(t, trial)
			tc.change(t, &trial)
			if r := detect(t, trial); r.Cached == tc.again {
				t.Errorf("got %+v, want a new trial: %v", r, tc.again)
			}
		})
	}
}

func TestWithoutAUsableDeviceThereIsNoTrial(t *testing.T) {
	trial := newTrial(t, func(context.Context, string) error { t.Error("a trial was made"); return nil })
	if err := os.Remove(trial.KVMDevice); err != nil {
		t.Fatal(err)
	}
	if r := detect(t, trial); r.Accel != accel.TCG || !strings.Contains(r.Reason, "has no "+trial.KVMDevice) {
		t.Errorf("got %+v", r)
	}
	if err := os.Mkdir(trial.KVMDevice, 0o700); err != nil { // opens for nobody, not even root
		t.Fatal(err)
	}
	if r := detect(t, trial); r.Accel != accel.TCG || !strings.Contains(r.Reason, "cannot be used") {
		t.Errorf("got %+v", r)
	}
	if _, err := os.Stat(trial.StateDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("this was remembered: %v", err) // but the module may be loaded a minute later
	}
}

func TestCallersAtTheSameTimeShareOneTrial(t *testing.T) {
	var trials atomic.Int32
	trial := newTrial(t, func(context.Context, string) error {
		trials.Add(1)
		return nil
	})
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			if r, err := accel.Detect(t.Context(), trial); err != nil || r.Accel != accel.KVM {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
	callers.Wait()
	if n := trials.Load(); n != 1 {
		t.Errorf("%d trials", n)
	}
}

func TestACallerThatGivesUpDecidesNothing(t *testing.T) {
	began := make(chan struct{})
	trial := newTrial(t, func(ctx context.Context, _ string) error {
		close(began)
		<-ctx.Done()
		return ctx.Err()
	})
	trial.Timeout = time.Minute
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := accel.Detect(ctx, trial)
		failed <- err
	}()
	<-began
	// Meanwhile another one waits for the trial, for a while.
	short, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	if _, err := accel.Detect(short, trial); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for the other trial gave %v", err)
	}
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled trial gave %v", err)
	}
	trial.Boot = answers
	if r := detect(t, trial); r.Accel != accel.KVM || r.Cached {
		t.Errorf("the cancelled trial has left %+v", r)
	}
}

func TestATrialHasAFolderAndLeavesNothing(t *testing.T) {
	trial := newTrial(t, nil)
	trial.Boot = func(_ context.Context, dir string) error {
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 0 {
			t.Errorf("the trial's folder has %v, %v", entries, err)
		}
		return os.WriteFile(filepath.Join(dir, "sock"), nil, 0o600)
	}
	leftover := filepath.Join(trial.StateDir, "trial", "of-a-trial-that-was-killed")
	if err := os.MkdirAll(leftover, 0o700); err != nil {
		t.Fatal(err)
	}
	detect(t, trial)
	entries, err := os.ReadDir(trial.StateDir)
	if err != nil || len(entries) != 2 || entries[0].Name() != "accel.json" || entries[1].Name() != "accel.lock" {
		t.Errorf("left in the state folder: %v, %v", entries, err)
	}
}
