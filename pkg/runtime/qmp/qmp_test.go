package qmp_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/katadirect/katadirect/pkg/runtime/qmp"
)

// patience bounds what must not take long; hitting it is a failure.
const patience = 20 * time.Second

// startQEMU runs a QEMU without a machine, which answers QMP in milliseconds.
func startQEMU(t *testing.T) *qmp.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	path := filepath.Join(t.TempDir(), "qmp.sock")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	cmd := exec.Command("qemu-system-x86_64", "-machine", "none", "-S", "-nodefaults", "-display", "none", "-qmp", "unix:"+path)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatalf("QEMU is needed, Debian package qemu-system-x86: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if err := listener.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	client, err := qmp.NewClient(ctx, conn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestCommandsReturnResultsAndRefusals(t *testing.T) {
	client := startQEMU(t)
	var status struct{ Status string }
	if err := client.Run(t.Context(), "query-status", nil, &status); err != nil || status.Status != "prelaunch" {
		t.Errorf("query-status gave %+v, %v", status, err)
	}
	err := client.Run(t.Context(), "device_del", map[string]any{"id": "nobody"}, nil)
	var refusal *qmp.CommandError
	if !errors.As(err, &refusal) || refusal.Class != qmp.ClassDeviceNotFound || refusal.Command != "device_del" {
		t.Errorf("deleting an unknown device gave %v", err)
	}
	if err := client.Run(t.Context(), "query-status", nil, &[]int{}); err == nil {
		t.Error("a result of the wrong shape was accepted")
	}
	if err := client.Run(t.Context(), "query-status", func() {}, nil); err == nil {
		t.Error("arguments that are no JSON were accepted")
	}
}

func TestManyCallersGetTheirOwnReplies(t *testing.T) {
	client := startQEMU(t)
	var callers sync.WaitGroup
	for i := range 16 {
		callers.Go(func() {
			for j := range 20 {
				name := fmt.Sprintf("obj-%d-%d", i, j)
				err := client.Run(t.Context(), "object-add", map[string]any{"qom-type": "secret", "id": name, "data": "x"}, nil)
				if err != nil {
					t.Error(err)
				}
				err = client.Run(t.Context(), "object-del", map[string]any{"id": name + "?"}, nil)
				if err == nil || !strings.Contains(err.Error(), name+"?") {
					t.Errorf("asked about %s?, got %v", name, err)
				}
			}
		})
	}
	callers.Wait()
}

func TestDescriptorsArriveWithTheirCommands(t *testing.T) {
	client := startQEMU(t)
	dir := t.TempDir()
	var callers sync.WaitGroup
	for i := range 8 {
		callers.Go(func() {
			file, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
			if err != nil {
				t.Error(err)
				return
			}
			defer file.Close()
			err = client.RunWithFile(t.Context(), file, "add-fd", map[string]any{"fdset-id": i}, nil)
			if err != nil {
				t.Error(err)
			}
			// The size QEMU sees through the descriptor tells which file it got.
			if err := file.Truncate(int64(i+1) << 20); err != nil {
				t.Error(err)
			}
		})
	}
	callers.Wait()
	for i := range 8 {
		node := fmt.Sprintf("node%d", i)
		err := client.Run(t.Context(), "blockdev-add", map[string]any{
			"driver": "file", "node-name": node, "filename": fmt.Sprintf("/dev/fdset/%d", i)}, nil)
		if err != nil {
			t.Fatal(err)
		}
	}
	var nodes []struct {
		Name  string `json:"node-name"`
		Image struct {
			Size int64 `json:"virtual-size"`
		}
	}
	if err := client.Run(t.Context(), "query-named-block-nodes", nil, &nodes); err != nil || len(nodes) != 8 {
		t.Fatalf("%d nodes, %v", len(nodes), err)
	}
	for _, n := range nodes {
		var i int64
		_, err := fmt.Sscanf(n.Name, "node%d", &i)
		if err != nil || n.Image.Size != (i+1)<<20 {
			t.Errorf("node %s is %d bytes large, %v", n.Name, n.Image.Size, err)
		}
	}
}

func TestEventsReachTheSubscribersTheyMatch(t *testing.T) {
	client := startQEMU(t)
	stops := client.Subscribe(4, qmp.Named("RESUME", "STOP"))
	defer stops.Close()
	shutdown := client.Subscribe(4, qmp.Named("SHUTDOWN"))
	for _, command := range []string{"cont", "stop", "quit"} {
		if err := client.Run(t.Context(), command, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, want := range []string{"RESUME", "STOP"} {
		if e, err := stops.Next(ctx); err != nil || e.Name != want || time.Since(e.Time) > time.Minute {
			t.Fatalf("got %+v, %v; want %s", e, err, want)
		}
	}
	e, err := shutdown.Next(ctx)
	var data struct{ Reason string }
	if err != nil || e.Decode(&data) != nil || data.Reason != "host-qmp-quit" {
		t.Errorf("got %s %s, %v", e.Name, e.Data, err)
	}
	if _, err := shutdown.Next(ctx); !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("after quit Next gives %v, want ErrClosed", err)
	}
	if err := client.Run(ctx, "query-status", nil, nil); !errors.Is(err, qmp.ErrClosed) || !strings.Contains(err.Error(), "hung up") {
		t.Errorf("after quit Run gives %v, want ErrClosed with the reason", err)
	}
	late := client.Subscribe(1, qmp.Named("STOP"))
	defer late.Close()
	if _, err := late.Next(ctx); !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("a late subscription gives %v, want ErrClosed", err)
	}
}

func TestALineLongerThanTheBufferArrivesWhole(t *testing.T) {
	client := startQEMU(t)
	var schema []json.RawMessage // about 200 KiB
	if err := client.Run(t.Context(), "query-qmp-schema", nil, &schema); err != nil || len(schema) < 500 {
		t.Errorf("schema of %d entries, %v", len(schema), err)
	}
}

// peer is a scripted QEMU for what the real one does not do on request.
type peer struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Scanner
}

const greeting = `{"QMP": {"version": {}, "capabilities": []}}` + "\r\n"

// newPeer returns a client that has negotiated with the peer.
func newPeer(t *testing.T) (*peer, *qmp.Client) {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { _ = theirs.Close() })
	p := &peer{t, theirs, bufio.NewScanner(theirs)}
	go func() {
		p.say(greeting)
		p.say(fmt.Sprintf(`{"return": {}, "id": %d}`+"\r\n", p.hear()))
	}()
	client, err := qmp.NewClient(t.Context(), ours)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return p, client
}

func (p *peer) say(line string) { _, _ = p.conn.Write([]byte(line)) }

// hear returns the id of the next command.
func (p *peer) hear() uint64 {
	if !p.in.Scan() {
		return 0
	}
	var command struct{ ID uint64 }
	if err := json.Unmarshal(p.in.Bytes(), &command); err != nil {
		p.t.Errorf("client sent %q: %v", p.in.Text(), err)
	}
	return command.ID
}

func TestEveryWaiterIsToldWhyTheClientEnded(t *testing.T) {
	for _, tc := range []struct {
		name, says string
		want       string
	}{
		{"hang-up", "", "hung up"},
		{"hang-up in the middle of a line", `{"return": {}`, "hung up"},
		{"no JSON", "oops\n", "not a QMP message"},
		{"JSON that is no message", `{"id": 7}` + "\n", "neither greeting, event nor reply"},
		{"a command QEMU could not parse", `{"error": {"class": "GenericError", "desc": "JSON parse error"}}` + "\n", "JSON parse error"},
		{"a line without end", strings.Repeat("x", 5<<20), "line of more than"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, client := newPeer(t)
			events := client.Subscribe(1, qmp.Named("STOP"))
			failures := make(chan error, 3)
			for range 2 {
				go func() { failures <- client.Run(context.Background(), "stop", nil, nil) }()
			}
			go func() {
				_, err := events.Next(context.Background())
				failures <- err
			}()
			p.hear()
			p.hear()
			p.say(tc.says)
			_ = p.conn.Close()
			for range 3 {
				select {
				case err := <-failures:
					if !errors.Is(err, qmp.ErrClosed) || !strings.Contains(err.Error(), tc.want) {
						t.Errorf("got %v, want ErrClosed because of %q", err, tc.want)
					}
				case <-time.After(patience):
					t.Fatal("a waiter was left waiting")
				}
			}
			<-client.Done()
		})
	}
}

func TestASlowSubscriberHoldsNobodyUp(t *testing.T) {
	p, client := newPeer(t)
	slow := client.Subscribe(2, qmp.Named("STOP"))
	defer slow.Close()
	go func() {
		id := p.hear()
		for range 1000 {
			p.say(`{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}` + "\n")
		}
		p.say(fmt.Sprintf(`{"id": %d, "return": {}}`+"\n", id))
	}()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := client.Run(ctx, "stop", nil, nil); err != nil {
		t.Fatal(err)
	}
	if slow.Dropped() != 998 {
		t.Errorf("%d events dropped, want 998", slow.Dropped())
	}
	if e, err := slow.Next(ctx); err != nil || !e.Time.Equal(time.Unix(1, 2000)) {
		t.Errorf("first event %+v, %v", e, err)
	}
}

func TestAReplyAfterTheCallersContextEndedDisturbsNobody(t *testing.T) {
	p, client := newPeer(t)
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() { first <- client.Run(ctx, "blockdev-add", nil, nil) }()
	late := p.hear()
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want the cancellation", err)
	}
	go func() {
		id := p.hear()
		p.say(fmt.Sprintf(`{"id": %d, "return": "late"}`+"\n", late))
		p.say(fmt.Sprintf(`{"id": %d, "return": "mine"}`+"\n", id))
	}()
	var result string
	if err := client.Run(t.Context(), "x", nil, &result); err != nil || result != "mine" {
		t.Errorf("got %q, %v", result, err)
	}
}

func TestGreetingIsBoundedAndChecked(t *testing.T) {
	for _, tc := range []struct {
		name, says string
		patience   time.Duration
		want       string
	}{
		{"silence", "", 100 * time.Millisecond, "deadline"},
		{"a reply instead", `{"return": {}, "id": 1}` + "\n", patience, "no QEMU"},
		{"something else", "SSH-2.0-OpenSSH\r\n", patience, "not a QMP message"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			defer theirs.Close()
			go func() { _, _ = theirs.Write([]byte(tc.says)) }()
			ctx, cancel := context.WithTimeout(t.Context(), tc.patience)
			defer cancel()
			_, err := qmp.NewClient(ctx, ours)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if _, err := ours.Write(nil); err == nil {
				t.Error("the connection was left open")
			}
		})
	}
}

func TestCloseEndsEverythingAndMayBeRepeated(t *testing.T) {
	p, client := newPeer(t)
	sub := client.Subscribe(1, qmp.Named("STOP"))
	waiter := make(chan error, 1)
	go func() { waiter <- client.Run(context.Background(), "stop", nil, nil) }()
	p.hear()
	_ = client.Close()
	_ = client.Close()
	if err := <-waiter; !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
	sub.Close()
	sub.Close()
	if _, err := sub.Next(t.Context()); !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
}
