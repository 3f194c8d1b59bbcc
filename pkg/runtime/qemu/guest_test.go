package qemu_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/katadirect/katadirect/internal/accel"
	"github.com/katadirect/katadirect/pkg/runtime/qemu"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

func TestTheAgentsChannelServesOneConnectionAfterAnother(t *testing.T) {
	g := sharedGuest(t)
	if url := g.m.AgentURL(); url != "vserial://"+g.dir+"/agent.sock" {
		t.Errorf("URL %s", url)
	}
	if _, err := g.m.DialAgent(t.Context()); err == nil {
		t.Error("a second connection at the same time was accepted")
	}
	for i := range 30 {
		if i%3 == 0 { // something in flight, which the next connection must not get
			if _, err := g.conn.Write([]byte(`{"Do":"cmdline"}` + "\n")); err != nil {
				t.Fatal(err)
			}
		}
		g.hangUp()
		began := time.Now()
		if err := g.dial(); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		t.Logf("connected again after %s", time.Since(began))
	}
}

func TestAChannelIsFreeAgainAfterADialThatGaveUp(t *testing.T) {
	g := newGuest(t, qemu.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := g.m.DialAgent(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("dialling a guest that is booting gave %v, want the deadline", err)
	}
	if err := g.dial(); err != nil {
		t.Error(err)
	}
}

func TestTheChannelIsWhatTheHostHas(t *testing.T) {
	g := newGuest(t, qemu.Config{Vsock: true})
	want := "vserial://" + g.dir + "/agent.sock"
	if _, err := os.Stat("/dev/vhost-vsock"); err == nil {
		want = "vsock://"
	}
	if url := g.m.AgentURL(); !strings.HasPrefix(url, want) {
		t.Errorf("URL %s, want %s", url, want)
	}
}

func TestAGuestThatEndsSaysWhy(t *testing.T) {
	for _, tc := range []struct {
		do   string
		want []string
	}{
		{"poweroff", []string{"powered itself off"}},
		{"panic", []string{"kernel panicked", "sysrq triggered crash"}},
	} {
		t.Run(tc.do, func(t *testing.T) {
			g := newGuest(t, qemu.Config{})
			if err := g.dial(); err != nil {
				t.Fatal(err)
			}
			if _, err := g.try(request{Do: tc.do}); err == nil {
				t.Error("the guest answered")
			}
			awaitDone(t, g.m)
			mustContain(t, "Err", g.m.Err(), tc.want...)
		})
	}
}

func TestAKernelThatNeverReachesInitSaysWhy(t *testing.T) {
	g := newGuest(t, qemu.Config{KernelParams: []string{"rdinit=/nobody", "root=/dev/nothing"}})
	_, err := g.m.DialAgent(t.Context())
	if !errors.Is(err, vm.ErrGone) {
		t.Fatalf("dialling gave %v, want ErrGone", err)
	}
	mustContain(t, "DialAgent", err, "kernel panicked", "Unable to mount root fs")
}

func TestTheConsoleIsCarriedOut(t *testing.T) {
	console := newSyncBuffer()
	began := time.Now()
	g := newGuest(t, qemu.Config{Console: console, KernelParams: []string{"my.word=1"}})
	if err := g.dial(); err != nil {
		t.Fatal(err)
	}
	if text := g.ask(request{Do: "cmdline"}).Text; !strings.Contains(text, "quiet") || !strings.HasSuffix(text, " my.word=1\n") {
		t.Errorf("kernel command line %q", text)
	}
	g.ask(request{Do: "say", Text: "hello \x1b[31mhost"})
	console.await(t, "hello ?[31mhost\n")

	// A guest that floods its console goes on being served, and is heard only in part.
	g.ask(request{Do: "flood"})
	console.await(t, "bytes left out: too much at once]\n")
	g.ask(request{Do: "ping"})
	n, took := len(console.String()), time.Since(began)
	if most := 512<<10 + int(took.Seconds()*(32<<10)); n > most { // twice what may come at once, and what may come every second
		t.Errorf("%d bytes came through in %s, want %d at most", n, took, most)
	}
	for line := range strings.Lines(console.String()) {
		if len(line) > 1025 {
			t.Errorf("a line of %d bytes", len(line))
		}
	}
}

func TestTheTrialTellsWhetherKVMWorksHere(t *testing.T) {
	c, err := testConfig(qemu.Config{})
	if err != nil {
		t.Fatal(err)
	}
	trial := qemu.KVMTrial(c)
	trial.StateDir = t.TempDir()
	result, err := accel.Detect(t.Context(), trial)
	if err != nil || result.Cached {
		t.Fatalf("%+v, %v", result, err)
	}
	t.Logf("%+v", result)
	again, err := accel.Detect(t.Context(), trial)
	if err != nil || again.Accel != result.Accel {
		t.Errorf("first %+v, then %+v, %v", result, again, err)
	}
	// Whatever it found must boot.
	c, err = testConfig(qemu.Config{Accel: result.Accel})
	if err != nil {
		t.Fatal(err)
	}
	g := newGuest(t, c)
	if err := g.dial(); err != nil {
		t.Error(err)
	}
}
