package qemu_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/katadirect/katadirect/internal/ownmounts"
	"github.com/katadirect/katadirect/pkg/runtime/qemu"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// patience bounds what takes seconds on a slow host; hitting it is a failure.
const patience = time.Minute

// shared is the machine that most tests use: booting one for each would take minutes.
var shared struct {
	once  sync.Once
	guest *guest
	err   error
}

func TestMain(m *testing.M) {
	if dir := os.Getenv(parentEnv); dir != "" {
		actAsParent(dir) // does not return
	}
	code := ownmounts.Main(m) // or a mount that is copied keeps a block device busy
	if shared.guest != nil {
		shared.guest.hangUp()
		if err := shared.guest.stopAndLook(); err != nil {
			fmt.Println("shared machine:", err)
			code = 1
		}
	}
	for _, cleanup := range cleanups {
		cleanup()
	}
	os.Exit(code)
}

// sharedGuest returns the shared machine's guest, ready to be asked.
func sharedGuest(t *testing.T) *guest {
	t.Helper()
	shared.once.Do(func() {
		shared.guest, shared.err = boot(qemu.Config{})
		if shared.err == nil {
			shared.err = shared.guest.dial()
		}
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	shared.guest.t = t
	return shared.guest
}

// newGuest boots a machine of the test's own.
func newGuest(t *testing.T, c qemu.Config) *guest {
	t.Helper()
	g, err := boot(c)
	if err != nil {
		t.Fatal(err)
	}
	g.t = t
	t.Cleanup(func() {
		g.hangUp()
		if err := g.stopAndLook(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// guest is a machine with the test guest in it.
type guest struct {
	t    testing.TB
	m    *qemu.Machine
	dir  string
	conn net.Conn
	in   *bufio.Reader
}

func testConfig(c qemu.Config) (qemu.Config, error) {
	image := bareImage
	if c.BlockDriver == qemu.VirtioSCSI || c.ShareSocket != "" {
		image = wholeImage
	}
	img, err := image()
	if err != nil {
		return c, err
	}
	parent, err := os.MkdirTemp("", "katadirect-vm-")
	if err != nil {
		return c, err
	}
	cleanups = append(cleanups, func() { _ = os.RemoveAll(parent) })
	c.Dir = filepath.Join(parent, "vm")
	c.ID, c.Kernel, c.Initrd = "test", img.Kernel, img.Initrd
	if c.Accel == "" {
		c.Accel = qemu.AccelTCG
	}
	c.MemoryMiB = 256
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

func boot(c qemu.Config) (*guest, error) {
	c, err := testConfig(c)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	m := qemu.New(c)
	if err := m.Start(ctx); err != nil {
		return nil, err
	}
	return &guest{m: m, dir: c.Dir}, nil
}

// dial connects to the guest and makes sure that it answers.
func (g *guest) dial() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := g.m.DialAgent(ctx)
	if err != nil {
		return err
	}
	g.conn, g.in = conn, bufio.NewReader(conn)
	_, err = g.try(request{Do: "ping"})
	return err
}

func (g *guest) hangUp() {
	if g.conn != nil {
		_ = g.conn.Close()
		g.conn = nil
	}
}

// stopAndLook stops the machine and says what is left of it.
func (g *guest) stopAndLook() error {
	pid := g.m.PID()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := g.m.Stop(ctx); err != nil {
		return err
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
		return fmt.Errorf("process %d is left", pid)
	}
	if _, err := os.Stat(g.dir); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("folder %s is left: %v", g.dir, err)
	}
	return nil
}

// request and answer are the test guest's protocol; see testguest.
type request struct {
	Do, Serial, Text string
	Offset           int64
	Data             []byte
}

type answer struct {
	Err, Text string
	Data      []byte
	Size      int64
	Disks     []guestDisk
}

type guestDisk struct {
	Name, Serial, Path string
	Size               int64
	ReadOnly           bool
}

func (g *guest) try(r request) (answer, error) {
	line, err := json.Marshal(r)
	if err != nil {
		return answer{}, err
	}
	if err := g.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return answer{}, err
	}
	if _, err := g.conn.Write(append(line, '\n')); err != nil {
		return answer{}, err
	}
	line, err = g.in.ReadBytes('\n')
	if err != nil {
		return answer{}, err
	}
	var a answer
	if err := json.Unmarshal(line, &a); err != nil {
		return a, err
	}
	if a.Err != "" {
		err = errors.New(a.Err)
	}
	return a, err
}

func (g *guest) ask(r request) answer {
	g.t.Helper()
	a, err := g.try(r)
	if err != nil {
		g.t.Fatalf("guest: %s %s: %v", r.Do, r.Serial, err)
	}
	return a
}

// disk waits until the guest has, or has not, the disk with that serial.
func (g *guest) disk(serial string, there bool) guestDisk {
	g.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		for _, d := range g.ask(request{Do: "disks"}).Disks {
			if d.Serial == serial && there {
				return d
			}
			if d.Serial == serial && time.Now().After(deadline) {
				g.t.Fatalf("the guest still has disk %s", serial)
			}
		}
		if !there {
			return guestDisk{}
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("the guest does not see disk %s", serial)
		}
		time.Sleep(time.Millisecond)
	}
}

func (g *guest) plug(d vm.Disk) vm.DiskAddress {
	g.t.Helper()
	address, err := g.m.PlugDisk(g.t.Context(), d)
	if err != nil {
		g.t.Fatal(err)
	}
	return address
}

func (g *guest) unplug(id string) {
	g.t.Helper()
	if err := g.m.UnplugDisk(g.t.Context(), id); err != nil {
		g.t.Fatal(err)
	}
}

const mib = 1 << 20

// sparseFile is a file that may back a disk.
func sparseFile(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(file.Truncate(size), file.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustContain(t *testing.T, what string, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", what)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%s: error %q does not say %q", what, err, part)
		}
	}
}

var _ io.Writer = (*syncBuffer)(nil)

// syncBuffer is a Console that tests can look at while the machine runs.
type syncBuffer struct {
	mu   sync.Mutex
	text []byte
	more chan struct{}
}

func newSyncBuffer() *syncBuffer { return &syncBuffer{more: make(chan struct{}, 1)} }

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = append(b.text, p...)
	select {
	case b.more <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.text)
}

// await waits until the text holds part.
func (b *syncBuffer) await(t *testing.T, part string) {
	t.Helper()
	deadline := time.After(patience)
	for !strings.Contains(b.String(), part) {
		select {
		case <-b.more:
		case <-deadline:
			t.Fatalf("console never said %q, but %q", part, b.String())
		}
	}
}
