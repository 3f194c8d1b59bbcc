package directvolume

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestLeaseIsHeldOnce(t *testing.T) {
	sandboxes := newHost(t).sandboxes()
	lease, err := sandboxes.AcquireLease("s1")
	must(t, err)
	if _, err := sandboxes.AcquireLease("s1"); !errors.Is(err, ErrLeaseHeld) {
		t.Fatalf("got %v", err)
	}
	if !sandboxes.Alive("s1") {
		t.Fatal("dead with its lease held")
	}
	must(t, lease.Close())
	if sandboxes.Alive("s1") {
		t.Fatal("alive without its lease")
	}
	lease, err = sandboxes.AcquireLease("s1")
	must(t, err)
	must(t, lease.Close())
}

// The shim dies, its machine lives on: so does the sandbox. This is what the descriptor is inherited for.
func TestLeaseLivesInWhoeverInheritsIt(t *testing.T) {
	sandboxes := newHost(t).sandboxes()
	lease, err := sandboxes.AcquireLease("s1")
	must(t, err)
	machine := exec.Command("cat")
	machine.ExtraFiles = []*os.File{lease}
	stdin, err := machine.StdinPipe()
	must(t, err)
	must(t, machine.Start())
	must(t, lease.Close())
	if !sandboxes.Alive("s1") {
		t.Error("dead while the machine lives")
	}
	if _, err := sandboxes.AcquireLease("s1"); !errors.Is(err, ErrLeaseHeld) {
		t.Errorf("got %v", err)
	}
	must(t, machine.Process.Kill())
	machine.Wait()
	stdin.Close()
	if sandboxes.Alive("s1") {
		t.Error("alive after the machine's end")
	}
}

func TestLeaseIsNotOnAFileThatNobodyFinds(t *testing.T) {
	sandboxes := newHost(t).sandboxes()
	first, err := sandboxes.AcquireLease("s1")
	must(t, err)
	defer first.Close()
	must(t, os.RemoveAll(sandboxes.Dir("s1"))) // a cleanup, while the lease is held
	second, err := sandboxes.AcquireLease("s1")
	must(t, err)
	defer second.Close()
	if !sandboxes.Alive("s1") {
		t.Error("the new lease is not where others look")
	}
}

// A cleanup that removes only leases it could lock itself can never take one away from its holder.
func TestLeaseIsNeverOnAFileThatACleanupHasUnlinked(t *testing.T) {
	sandboxes := newHost(t).sandboxes()
	stop := make(chan struct{})
	var cleanup sync.WaitGroup
	cleanup.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			file, err := os.OpenFile(sandboxes.LeasePath("s1"), os.O_RDWR, 0)
			if err != nil {
				continue
			}
			if lockLease(file) == nil {
				os.Remove(sandboxes.LeasePath("s1"))
			}
			file.Close()
		}
	})
	// One holds an unlinked file, another makes a new one: only the check after the lock keeps them apart.
	var holders atomic.Int32
	var shims sync.WaitGroup
	for range 3 {
		shims.Go(func() {
			for range 700 {
				lease, err := tryLease(sandboxes.LeasePath("s1"))
				if err != nil {
					continue // another has it
				}
				if n := holders.Add(1); n != 1 {
					t.Errorf("%d hold the lease at once", n)
				}
				var stat unix.Stat_t
				if err := unix.Fstat(int(lease.Fd()), &stat); err != nil || stat.Nlink != 1 {
					t.Errorf("the lease has %d names, %v", stat.Nlink, err)
				}
				holders.Add(-1)
				lease.Close()
			}
		})
	}
	shims.Wait()
	close(stop)
	cleanup.Wait()
}

func TestLookingDoesNotTakeTheLease(t *testing.T) {
	sandboxes := newHost(t).sandboxes()
	lease, err := sandboxes.AcquireLease("s1")
	must(t, err)
	must(t, lease.Close())
	stop := make(chan struct{})
	var lookers sync.WaitGroup
	for range 4 {
		lookers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					sandboxes.Alive("s1")
				}
			}
		})
	}
	for range 1000 {
		lease, err := tryLease(sandboxes.LeasePath("s1")) // without the patience of AcquireLease
		if err != nil {
			t.Error(err)
			break
		}
		if !sandboxes.LeaseHeld("s1") {
			t.Error("not seen while it is held")
		}
		lease.Close()
	}
	close(stop)
	lookers.Wait()
}

func TestAliveWithoutALease(t *testing.T) {
	type setup func(t *testing.T, h host)
	listen := func(path func(Sandboxes) string) setup {
		return func(t *testing.T, h host) {
			must(t, os.MkdirAll(filepath.Dir(path(h.sandboxes())), 0o755))
			listener, err := net.Listen("unix", path(h.sandboxes()))
			must(t, err)
			t.Cleanup(func() { listener.Close() })
		}
	}
	goSocket := func(s Sandboxes) string { return s.SocketPath("s1") }
	rustSocket := func(s Sandboxes) string { return s.rustSocketPath("s1") }
	process := func(cmdline string) setup {
		return func(t *testing.T, h host) {
			must(t, os.MkdirAll(filepath.Join(h.proc(), "42"), 0o755))
			must(t, os.WriteFile(filepath.Join(h.proc(), "42", "cmdline"), []byte(cmdline), 0o644))
		}
	}
	tests := map[string]struct {
		setup setup
		want  bool
	}{
		"nothing":           {func(*testing.T, host) {}, false},
		"folder only":       {func(t *testing.T, h host) { must(t, os.MkdirAll(h.sandboxes().Dir("s1"), 0o755)) }, false},
		"Go shim listens":   {listen(goSocket), true},
		"Rust shim listens": {listen(rustSocket), true},
		"socket file of the dead": {func(t *testing.T, h host) {
			must(t, os.MkdirAll(h.sandboxes().Dir("s1"), 0o755))
			listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: goSocket(h.sandboxes()), Net: "unix"})
			must(t, err)
			listener.SetUnlinkOnClose(false)
			must(t, listener.Close())
		}, false},
		"not a socket": {func(t *testing.T, h host) {
			must(t, os.MkdirAll(h.sandboxes().Dir("s1"), 0o755))
			must(t, os.WriteFile(goSocket(h.sandboxes()), nil, 0o600))
		}, false},
		"shim that does not listen yet": {process("containerd-shim-kata-v2\x00-namespace\x00k8s.io\x00-id\x00s1\x00"), true},
		"machine without a shim":        {process("qemu-system-x86_64\x00-name\x00sandbox-s1,debug-threads=on\x00"), true},
		"machine by its folder":         {process("cloud-hypervisor\x00--api-socket\x00/run/vc/vm/s1/clh-api.sock\x00"), true},
		"another sandbox's machine":     {process("qemu-system-x86_64\x00-name\x00sandbox-s11\x00/run/vc/vm/s11/x\x00"), false},
		"proc that cannot be read":      {func(t *testing.T, h host) { must(t, os.RemoveAll(h.proc())) }, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			test.setup(t, h)
			if got := h.sandboxes().Alive("s1"); got != test.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

// A real process, seen through the real proc.
func TestAliveSeesARealProcess(t *testing.T) {
	h := newHost(t)
	sandboxes := h.sandboxes()
	sandboxes.ProcDir = ""
	id := "5a17e0c9b3d24f6a" + time.Now().Format("150405000000")
	shim := exec.Command("cat", "-", id)
	stdin, err := shim.StdinPipe()
	must(t, err)
	if sandboxes.Alive(id) {
		t.Fatal("alive before it is there")
	}
	must(t, shim.Start())
	// Start returns when exec has closed the descriptors; the command line is there a moment later.
	cmdline := filepath.Join("/proc", strconv.Itoa(shim.Process.Pid), "cmdline")
	for line := []byte(nil); len(line) == 0; {
		line, err = os.ReadFile(cmdline)
		must(t, err)
	}
	if !sandboxes.Alive(id) {
		t.Error("not seen")
	}
	must(t, shim.Process.Kill())
	shim.Wait()
	stdin.Close()
	if sandboxes.Alive(id) {
		t.Error("alive after its end")
	}
}

func TestDefaultPlacesAreKatas(t *testing.T) {
	for got, want := range map[string]string{
		SocketPath("s1"):                 "/run/vc/sbs/s1/shim-monitor.sock",
		LeasePath("s1"):                  "/run/vc/sbs/s1/lease",
		Sandboxes{}.rustSocketPath("s1"): "/run/kata/s1/shim-monitor.sock",
		NewStore("").Root():              "/run/kata-containers/shared/direct-volumes",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestASandboxIsFoundByTheBeginningOfItsID(t *testing.T) {
	dir := t.TempDir()
	s := Sandboxes{GoDir: filepath.Join(dir, "go"), RustDir: filepath.Join(dir, "rust"), ProcDir: filepath.Join(dir, "proc")}
	for _, id := range []string{"abc", "abcd1", "abcd2", "x1"} {
		lease, err := s.AcquireLease(id)
		if err != nil {
			t.Fatal(err)
		}
		defer lease.Close()
	}
	for _, empty := range []string{filepath.Join(s.GoDir, "dead"), s.ProcDir} {
		if err := os.MkdirAll(empty, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for prefix, want := range map[string]struct {
		id  string
		err error
	}{
		"x":     {"x1", nil},
		"abcd2": {"abcd2", nil},
		"abc":   {"abc", nil}, // to the byte, though others begin with it
		"abcd":  {"", ErrAmbiguous},
		"a":     {"", ErrAmbiguous},
		"dead":  {"", ErrNoSandbox},
		"y":     {"", ErrNoSandbox},
		"":      {"", ErrInvalidSandbox},
		"../x":  {"", ErrInvalidSandbox},
	} {
		if id, err := s.Find(prefix); id != want.id || !errors.Is(err, want.err) {
			t.Errorf("%q: %q, %v; want %q, %v", prefix, id, err, want.id, want.err)
		}
	}
}
