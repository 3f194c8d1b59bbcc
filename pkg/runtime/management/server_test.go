package management

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/katadirect/katadirect/internal/calltimes"
	"github.com/katadirect/katadirect/internal/console"
	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
	"github.com/katadirect/katadirect/pkg/runtime/volume"
)

// sandbox is a backend with one volume on device.
type sandbox struct {
	device  string
	fail    error
	resized map[string]uint64
	block   chan struct{}
	console Console
	guest   string // its metrics
	rules   map[bool]string
	limits  directvolume.Limits

	copyTarget, copyFailed string
}

func (s *sandbox) known(device string) error {
	if device != s.device {
		return fmt.Errorf("mount %s %w", device, volume.ErrUnknown)
	}
	return s.fail
}

func (s *sandbox) VolumeStats(ctx context.Context, device string) (directvolume.VolumeStats, error) {
	if s.block != nil {
		<-s.block
	}
	return directvolume.VolumeStats{
		Usage: []directvolume.VolumeUsage{
			{Available: 10, Total: 30, Used: 20, Unit: directvolume.UnitBytes},
			{Available: 5, Total: 5, Unit: directvolume.UnitInodes},
		},
		Condition: directvolume.VolumeCondition{Message: "OK"},
	}, s.known(device)
}

func (s *sandbox) ResizeVolume(_ context.Context, device string, sizeBytes uint64) error {
	if err := s.known(device); err != nil {
		return err
	}
	s.resized[device] = sizeBytes
	return nil
}

func (s *sandbox) FreezeVolume(_ context.Context, device string, limit time.Duration) (directvolume.Freeze, error) {
	return directvolume.Freeze{ID: 7, RemainingMilliseconds: uint64(limit.Milliseconds())}, s.known(device)
}

func (s *sandbox) ThawVolume(_ context.Context, device string, id uint64) (directvolume.Thaw, error) {
	return directvolume.Thaw{WasFrozen: id == 7}, s.known(device)
}

func (s *sandbox) ThrottleVolume(_ context.Context, device string, limits directvolume.Limits) error {
	s.limits = limits
	return s.known(device)
}

func (s *sandbox) Volumes(context.Context) []directvolume.SandboxVolume {
	return []directvolume.SandboxVolume{{Device: s.device, Containers: []string{"c1"}}}
}

func (s *sandbox) OpenConsole(_ context.Context, r console.Request) (Console, error) {
	return s.console, s.fail
}

func (s *sandbox) IPTables(_ context.Context, ipv6 bool) ([]byte, error) {
	return []byte(s.rules[ipv6]), s.fail
}

func (s *sandbox) SetIPTables(_ context.Context, ipv6 bool, rules []byte) ([]byte, error) {
	s.rules = map[bool]string{ipv6: string(rules)}
	return []byte("said"), s.fail
}

func (s *sandbox) AgentURL() string { return "vsock://3:1024" }
func (s *sandbox) Metrics(context.Context) Metrics {
	return Metrics{
		HypervisorPID: os.Getpid(), VirtiofsdPID: os.Getpid(), Containers: 2, Volumes: 1, Resizes: 7, Guest: s.guest, GuestError: s.fail,
		Calls:      []calltimes.Of{{Action: "create", Count: 1}},
		AgentCalls: []calltimes.Of{{Action: "grpc.CheckRequest", Count: 3, SumMilliseconds: 7.5}},
	}
}

// serve runs the socket of a sandbox with id "s1" and returns an HTTP client for it.
func serve(t *testing.T, b Backend) (*http.Client, directvolume.Sandboxes) {
	t.Helper()
	sandboxes := directvolume.Sandboxes{GoDir: t.TempDir()}
	if err := os.MkdirAll(sandboxes.Dir("s1"), 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := Serve(sandboxes.SocketPath("s1"), b, Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 {
			if err := s.Close(context.WithoutCancel(t.Context())); err != nil {
				t.Error(err)
			}
		}
		if _, err := os.Lstat(sandboxes.SocketPath("s1")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the socket is left: %v", err)
		}
	})
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", sandboxes.SocketPath("s1"))
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}, sandboxes
}

// ask sends one request and returns status and body.
func ask(t *testing.T, c *http.Client, method, target, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://shim"+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(got)
}

// TestKatasDialect: the requests and answers of kata-contract's tables, to the byte where a byte is promised.
func TestKatasDialect(t *testing.T) {
	const device = "/dev/vol 1"
	statsURL := directvolume.PathStats + "?path=" + url.PathEscape(device) // as kata-runtime asks
	good := `{"usage":[{"available":10,"total":30,"used":20,"unit":1},{"available":5,"total":5,"unit":2}],"volume_condition":{"message":"OK"}}`
	for _, tc := range []struct {
		name, method, target, body string
		fail                       error
		status                     int
		answer                     string
	}{
		{"stats", "GET", statsURL, "", nil, 200, good},
		{"stats by POST", "POST", statsURL, "", nil, 200, good},
		{"stats without a path", "GET", "/direct-volume/stats", "", nil, 400, "Required parameter path not found\n"},
		{"stats with an empty path", "GET", "/direct-volume/stats?path=", "", nil, 400, "Required parameter path not found\n"},
		{"stats of an unknown device", "GET", "/direct-volume/stats?path=/x", "", nil, 500, "mount /x not found in sandbox\n"},
		{"stats the agent fails", "GET", statsURL, "", errors.New("agent: no"), 500, "agent: no\n"},
		{"resize", "POST", "/direct-volume/resize", `{"VolumePath":"/dev/vol 1","Size":1024}`, nil, 200, ""},
		{"resize by GET, other case", "GET", "/direct-volume/resize", `{"volumepath":"/dev/vol 1","SIZE":1024}`, nil, 200, ""},
		{"resize of an unknown device", "POST", "/direct-volume/resize", `{"VolumePath":"/x","Size":1}`, nil, 500, "mount /x not found in sandbox\n"},
		{"resize in runtime-rs's words", "POST", "/direct-volume/resize", `{"volume_guest_path":"/x","size":1}`, nil, 500, "resize: VolumePath (the host's device) and Size (bytes) must both be given\n"},
		{"resize to less", "POST", "/direct-volume/resize", `{"VolumePath":"/dev/vol 1","Size":1}`, vm.ErrShrink, 500, "a disk cannot be made smaller\n"},
		{"resize the agent cannot do", "POST", "/direct-volume/resize", `{"VolumePath":"/dev/vol 1","Size":1}`, volume.ErrCannotGrow, 501, volume.ErrCannotGrow.Error() + "\n"},
		{"agent's address", "GET", "/agent-url", "", nil, 200, "vsock://3:1024"},
		{"anything else", "GET", "/nothing", "", nil, 404, "404 page not found\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := &sandbox{device: device, fail: tc.fail, resized: make(map[string]uint64)}
			c, _ := serve(t, b)
			status, answer := ask(t, c, tc.method, tc.target, tc.body)
			if status != tc.status || answer != tc.answer {
				t.Errorf("%d %q\nwant %d %q", status, answer, tc.status, tc.answer)
			}
			if strings.Contains(tc.target, "resize") && tc.status == 200 && b.resized[device] != 1024 {
				t.Errorf("resized %v", b.resized)
			}
		})
	}
}

func TestBadBodiesAreRefusedAndBounded(t *testing.T) {
	c, _ := serve(t, &sandbox{device: "/dev/x", resized: make(map[string]uint64)})
	for name, body := range map[string]string{
		"empty": "", "not JSON": "{", "an array": "[]", "a negative size": `{"VolumePath":"/dev/x","Size":-1}`,
		"a size of 2^64": `{"VolumePath":"/dev/x","Size":18446744073709551616}`, "no size": `{"VolumePath":"/dev/x"}`,
		"huge": `{"VolumePath":"` + strings.Repeat("x", 2*maxBodyBytes) + `","Size":1}`,
	} {
		if status, answer := ask(t, c, "POST", directvolume.PathResize, body); status != 500 || answer == "" || len(answer) > 1024 {
			t.Errorf("%s: %d %.100q", name, status, answer)
		}
	}
}

// TestOurOwnClient: both halves of the contract fit, also for names that Kata's two decodings would change.
func TestOurOwnClient(t *testing.T) {
	for _, device := range []string{"/dev/loop0", "/pool/a b", "/pool/50%25", "/pool/a+b&c=d", "/pool/ü"} {
		b := &sandbox{device: device, resized: make(map[string]uint64)}
		_, sandboxes := serve(t, b)
		client := directvolume.NewClient("s1", directvolume.WithClientSandboxes(sandboxes))
		got, err := client.Stats(t.Context(), device)
		if usage, ok := got.Of(directvolume.UnitBytes); err != nil || !ok || usage.Used != 20 || got.Condition.Message != "OK" {
			t.Errorf("%s: stats %+v, %v", device, got, err)
		}
		if err := client.Resize(t.Context(), device, 1<<30); err != nil || b.resized[device] != 1<<30 {
			t.Errorf("%s: resize %v, %v", device, b.resized, err)
		}
		if agent, err := client.AgentURL(t.Context()); err != nil || agent != "vsock://3:1024" {
			t.Errorf("agent url %q, %v", agent, err)
		}
	}
}

func TestTheSocketIsForRootOnly(t *testing.T) {
	_, sandboxes := serve(t, &sandbox{})
	info, err := os.Stat(sandboxes.SocketPath("s1"))
	if err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestASocketLeftByADeadShimIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	for range 2 {
		s, err := Serve(path, &sandbox{}, Options{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close(context.WithoutCancel(t.Context())) })
	}
}

func TestCloseDoesNotWaitForAGuestThatDoesNotAnswer(t *testing.T) {
	b := &sandbox{device: "/x", block: make(chan struct{})}
	defer close(b.block)
	path := filepath.Join(t.TempDir(), "s")
	s, err := Serve(path, b, Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "GET /direct-volume/stats?path=/x HTTP/1.1\r\nHost: shim\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Error(err)
	}
}

func (s *sandbox) CopyVolume(_ context.Context, device, target string) (directvolume.CopyState, error) {
	s.copyTarget = target
	return directvolume.CopyState{ID: 5}, s.known(device)
}

func (s *sandbox) VolumeCopy(_ context.Context, device string, id uint64) (directvolume.CopyState, error) {
	if id != 5 {
		return directvolume.CopyState{}, volume.ErrNoCopy
	}
	return directvolume.CopyState{ID: id, Done: true, Failed: s.copyFailed}, s.known(device)
}

func (s *sandbox) CancelCopy(ctx context.Context, device string, id uint64) (directvolume.CopyState, error) {
	s.copyFailed = "cancelled"
	return s.VolumeCopy(ctx, device, id)
}
