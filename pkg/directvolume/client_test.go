package directvolume

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// serve listens on a management socket until the test ends.
func serve(t *testing.T, path string, handler http.Handler) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o700))
	listener, err := net.Listen("unix", path)
	must(t, err)
	server := &http.Server{Handler: handler}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Close()
		<-served
	})
}

// goShim is a server with the manners of Kata's Go shim: any method, the query decoded twice, keys of any case.
type goShim struct {
	device string // the only one it has
	size   atomic.Uint64
}

const katasAnswer = `{"usage":[{"available":10,"total":30,"used":20,"unit":1},{"available":5,"total":5,"unit":2}],"volume_condition":{"message":"OK"}}`

var katasStats = VolumeStats{
	Usage: []VolumeUsage{
		{Available: 10, Total: 30, Used: 20, Unit: UnitBytes},
		{Available: 5, Total: 5, Unit: UnitInodes},
	},
	Condition: VolumeCondition{Message: "OK"},
}

func (g *goShim) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case PathStats:
		value := r.URL.Query().Get("path")
		if value == "" {
			http.Error(w, "Required parameter path not found", http.StatusBadRequest)
			return
		}
		device, err := url.PathUnescape(value)
		if err != nil || device != g.device {
			http.Error(w, "stat "+device+": no such file or directory", http.StatusInternalServerError)
			return
		}
		io.WriteString(w, katasAnswer)
	case PathResize:
		var request struct {
			VolumePath string
			Size       uint64
		}
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil || request.VolumePath != g.device {
			http.Error(w, fmt.Sprint("resize: ", request, err), http.StatusInternalServerError)
			return
		}
		g.size.Store(request.Size)
	case PathAgentURL:
		io.WriteString(w, "vsock://3:1024")
	case PathMetrics:
		io.WriteString(w, "kata_shim_threads 12\n")
	default:
		http.NotFound(w, r)
	}
}

func TestClientSpeaksToKatasGoShim(t *testing.T) {
	devices := []string{"/dev/sdf", "/mnt/my disks/a", "/a+b", "/a&path=/b", "/50%", "/a%41", "/a%2Fb", "/größe", "/a?b#c;d=e", "/\"'\\"}
	for _, device := range devices {
		t.Run(device, func(t *testing.T) {
			h := newHost(t)
			shim := &goShim{device: device}
			serve(t, h.sandboxes().SocketPath("s1"), shim)
			client := NewClient("s1", WithClientSandboxes(h.sandboxes()))
			if got, err := client.Stats(t.Context(), device); err != nil || !reflect.DeepEqual(got, katasStats) {
				t.Errorf("Stats: %+v, %v", got, err)
			}
			if err := client.Resize(t.Context(), device, 2<<30); err != nil || shim.size.Load() != 2<<30 {
				t.Errorf("Resize: %v, size %d", err, shim.size.Load())
			}
		})
	}
}

func TestServerFindsTheDeviceThatAClientMeant(t *testing.T) {
	for _, device := range []string{"/dev/sdf", "/my disk", "/a+b", "/50%25", "/a%41", "/größe", "/a%zz"} {
		katas := QueryPath + "=" + url.PathEscape(device)
		for name, query := range map[string]string{"ours": StatsQuery(device), "Kata's": katas} {
			found := false
			for _, candidate := range StatsDevices(query) {
				found = found || candidate == device
			}
			if !found {
				t.Errorf("%s client, %q: %q not among %q", name, device, query, StatsDevices(query))
			}
		}
		if got := StatsDevices(StatsQuery(device)); got[0] != device {
			t.Errorf("%q comes as %q first", device, got)
		}
	}
	for _, query := range []string{"", "path=", "path", "other=/a", "path=%zz"} {
		if got := StatsDevices(query); len(got) != 0 {
			t.Errorf("%q: %q", query, got)
		}
	}
}

func TestClientReadsAddressAndMetrics(t *testing.T) {
	h := newHost(t)
	serve(t, h.sandboxes().SocketPath("s1"), &goShim{})
	client := NewClient("s1", WithClientSandboxes(h.sandboxes()))
	if got, err := client.AgentURL(t.Context()); err != nil || got != "vsock://3:1024" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := client.Metrics(t.Context()); err != nil || string(got) != "kata_shim_threads 12\n" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestAnswerThatIsNot200IsAStatusError(t *testing.T) {
	h := newHost(t)
	serve(t, h.sandboxes().SocketPath("s1"), &goShim{device: "/dev/sdf"})
	client := NewClient("s1", WithClientSandboxes(h.sandboxes()))
	_, statsErr := client.Stats(t.Context(), "/dev/sdg")
	for name, err := range map[string]error{"Stats": statsErr, "Resize": client.Resize(t.Context(), "/dev/sdg", 1)} {
		var status *StatusError
		if !errors.As(err, &status) || status.Code != 500 || !strings.Contains(status.Message, "/dev/sdg") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// rustShim is a server with the manners of Kata's Rust shim: POST, an absolute request target, the guest's path, its
// own body keys, debug text, and a closed connection for every error.
type rustShim struct {
	guestPath string
	answer    string
	size      atomic.Uint64
}

func (s *rustShim) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	hangUp := func() { panic(http.ErrAbortHandler) }
	if r.Method != http.MethodPost || !strings.HasPrefix(r.RequestURI, "http://") {
		hangUp()
	}
	switch r.URL.Path {
	case PathStats:
		if r.URL.Query().Get("path") != s.guestPath {
			hangUp()
		}
		io.WriteString(w, s.answer)
	case PathResize:
		var body map[string]any
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body["volume_guest_path"] != s.guestPath {
			hangUp()
		}
		size, ok := body["size"].(float64)
		if !ok {
			hangUp()
		}
		s.size.Store(uint64(size))
	}
}

func TestClientSpeaksToKatasRustShim(t *testing.T) {
	answers := map[string]string{
		"derived Debug": `Usage: [VolumeUsage { available: 10, total: 30, used: 20, unit: BYTES, special_fields: SpecialFields { unknown_fields: UnknownFields { fields: None }, cached_size: CachedSize { size: 0 } } }, ` +
			`VolumeUsage { available: 5, total: 5, used: 0, unit: INODES, special_fields: SpecialFields { unknown_fields: UnknownFields { fields: None }, cached_size: CachedSize { size: 0 } } }] ` +
			`Volume Condition: VolumeCondition { abnormal: false, message: "OK", special_fields: SpecialFields { unknown_fields: UnknownFields { fields: None }, cached_size: CachedSize { size: 0 } } }`,
		"text format":                   `Usage: [available: 10 total: 30 used: 20 unit: BYTES, available: 5 total: 5 unit: INODES] Volume Condition: message: "OK"`,
		"the Go shim's, should it ever": katasAnswer,
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			shim := &rustShim{guestPath: "/run/kata-containers/shared/containers/passthrough/a-b-c d", answer: answer}
			serve(t, h.sandboxes().rustSocketPath("s1"), shim)
			client := NewClient("s1", WithClientSandboxes(h.sandboxes()), WithGuestPath(shim.guestPath))
			if got, err := client.Stats(t.Context(), "/dev/sdf"); err != nil || !reflect.DeepEqual(got, katasStats) {
				t.Errorf("Stats: %+v, %v", got, err)
			}
			if err := client.Resize(t.Context(), "/dev/sdf", 2<<30); err != nil || shim.size.Load() != 2<<30 {
				t.Errorf("Resize: %v, size %d", err, shim.size.Load())
			}
			// What the Rust shim does with an error is explained.
			lost := NewClient("s1", WithClientSandboxes(h.sandboxes()), WithGuestPath("/elsewhere"))
			if _, err := lost.Stats(t.Context(), "/dev/sdf"); err == nil || !strings.Contains(err.Error(), "Rust shim refused") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestAbnormalConditionOfTheRustShimIsRead(t *testing.T) {
	stats, err := parseStats([]byte(`Usage: [] Volume Condition: VolumeCondition { abnormal: true, message: "read-only: \"I/O error\"" }`))
	if err != nil || !stats.Condition.Abnormal || stats.Condition.Message != `read-only: "I/O error"` {
		t.Fatalf("%+v, %v", stats, err)
	}
}

func TestGoShimsSocketIsTakenFirst(t *testing.T) {
	h := newHost(t)
	serve(t, h.sandboxes().SocketPath("s1"), &goShim{device: "/dev/sdf"})
	serve(t, h.sandboxes().rustSocketPath("s1"), &rustShim{})
	if _, err := NewClient("s1", WithClientSandboxes(h.sandboxes())).Stats(t.Context(), "/dev/sdf"); err != nil {
		t.Fatal(err)
	}
}

func TestNobodyListeningIsNoSandbox(t *testing.T) {
	h := newHost(t)
	client := NewClient("s1", WithClientSandboxes(h.sandboxes()))
	if _, err := client.Stats(t.Context(), "/dev/sdf"); !errors.Is(err, ErrNoSandbox) {
		t.Errorf("no socket: %v", err)
	}
	path := h.sandboxes().SocketPath("s1")
	must(t, os.MkdirAll(filepath.Dir(path), 0o700))
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	listener.SetUnlinkOnClose(false)
	must(t, listener.Close())
	if err := client.Resize(t.Context(), "/dev/sdf", 1); !errors.Is(err, ErrNoSandbox) {
		t.Errorf("socket of a dead shim: %v", err)
	}
}

func TestSilentShimIsGivenUpWhenTheContextEnds(t *testing.T) {
	h := newHost(t)
	release := make(chan struct{})
	serve(t, h.sandboxes().SocketPath("s1"), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-release }))
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := NewClient("s1", WithClientSandboxes(h.sandboxes())).Stats(ctx, "/dev/sdf"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
}

func TestAnswersOfAHostileShim(t *testing.T) {
	tests := map[string]string{
		"endless":         "{}" + strings.Repeat(" ", maxStatsBytes),
		"empty":           "",
		"not JSON":        "<html>",
		"an array":        "[]",
		"negative":        `{"usage":[{"available":-1}]}`,
		"too large":       `{"usage":[{"available":18446744073709551616}]}`,
		"a fraction":      `{"usage":[{"available":1.5}]}`,
		"rust, too large": "Usage: [available: 99999999999999999999 unit: BYTES] Volume Condition: ",
		"rust, a word":    "Usage: [available: many unit: BYTES] Volume Condition: ",
	}
	for name, answer := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			serve(t, h.sandboxes().SocketPath("s1"), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, answer) }))
			if got, err := NewClient("s1", WithClientSandboxes(h.sandboxes())).Stats(t.Context(), "/dev/sdf"); err == nil {
				t.Errorf("accepted %+v", got)
			}
		})
	}
	t.Run("endless error", func(t *testing.T) {
		h := newHost(t)
		serve(t, h.sandboxes().SocketPath("s1"), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, strings.Repeat("x", 4096)); err != nil {
					return
				}
			}
		}))
		_, err := NewClient("s1", WithClientSandboxes(h.sandboxes())).Stats(t.Context(), "/dev/sdf")
		var status *StatusError
		if !errors.As(err, &status) || len(status.Message) > maxErrorBytes {
			t.Errorf("got %v", err)
		}
	})
}

func TestStatsHaveTheBytesOfKatasShim(t *testing.T) {
	for want, stats := range map[string]VolumeStats{
		katasAnswer: katasStats,
		`{}`:        {},
		`{"volume_condition":{"abnormal":true,"message":"gone"}}`: {Condition: VolumeCondition{Abnormal: true, Message: "gone"}},
	} {
		if got, err := json.Marshal(stats); err != nil || string(got) != want {
			t.Errorf("got %s, %v; want %s", got, err, want)
		}
	}
	if got, _ := json.Marshal(ResizeRequest{VolumePath: "/dev/sdf", Size: 5}); string(got) != `{"VolumePath":"/dev/sdf","Size":5}` {
		t.Errorf("got %s", got)
	}
	if bytes, ok := katasStats.Of(UnitBytes); !ok || bytes.Total != 30 {
		t.Errorf("got %+v", bytes)
	}
	if _, ok := (VolumeStats{}).Of(UnitInodes); ok {
		t.Error("inodes of nothing")
	}
}

func FuzzParseStats(f *testing.F) {
	f.Add([]byte(katasAnswer))
	f.Add([]byte(`Usage: [available: 10 total: 30 used: 20 unit: BYTES] Volume Condition: message: "\x"`))
	f.Fuzz(func(t *testing.T, body []byte) {
		stats, err := parseStats(body)
		if err != nil {
			return
		}
		again, err := json.Marshal(stats)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseStats(again); err != nil {
			t.Fatalf("cannot read %s: %v", again, err)
		}
	})
}

// FuzzAnswers reads what shims answer to freeze, thaw, copy and list. Whoever makes a copy goes by WasFrozen and Done, which
// only the word true may set; the rest is passed on, and must be the same when it is read again.
func FuzzAnswers(f *testing.F) {
	for _, body := range []string{
		`{"id":3,"remaining_milliseconds":9000}`, `{"was_frozen":true,"frozen_microseconds":12}`, `{"was_frozen":1}`, `null`, ``, `{"ended":"\ud800"}`,
		`{"id":1,"copied_bytes":-1,"total_bytes":4096,"done":true,"failed":"x"}`, `[{"device":"/dev/sdf","frozen":{"since":"2026-01-01T00:00:00Z"}}]`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var thaw Thaw
		var state CopyState
		for _, pair := range [][2]any{{&Freeze{}, &Freeze{}}, {&thaw, &Thaw{}}, {&state, &CopyState{}}, {&[]SandboxVolume{}, &[]SandboxVolume{}}} {
			if readAnswer(body, pair[0]) != nil {
				continue
			}
			text, err := json.Marshal(pair[0])
			if err != nil {
				t.Fatalf("%q became %+v, which cannot be written: %v", body, pair[0], err)
			}
			if err := readAnswer(text, pair[1]); err != nil {
				t.Fatalf("cannot read %s: %v", text, err)
			}
			if again, err := json.Marshal(pair[1]); err != nil || !bytes.Equal(text, again) {
				t.Errorf("%s became %s, %v", text, again, err)
			}
		}
		if (thaw.WasFrozen || state.Done) && !bytes.Contains(body, []byte("true")) {
			t.Errorf("%q is taken for a whole copy", body)
		}
	})
}

func FuzzStatsDevices(f *testing.F) {
	f.Add("/dev/sdf")
	f.Add("/a%41+&=")
	f.Fuzz(func(t *testing.T, device string) {
		if device == "" {
			return
		}
		if got := StatsDevices(StatsQuery(device)); len(got) == 0 || got[0] != device {
			t.Fatalf("%q comes as %q", device, got)
		}
	})
}
