package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/spf13/cobra"

	"github.com/katadirect/katadirect/pkg/csi/pool"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// program is the real binary, built once.
var program string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "katadirect-cli")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "katadirect")
	build := exec.Command("go", "build", "-ldflags", "-X github.com/katadirect/katadirect/internal/version.Version=v9.8.7", "-o", program, ".")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// node is a node of a test's own, for the real program.
type node struct{ dir string }

func newNode(t *testing.T) node {
	t.Helper()
	dir, err := os.MkdirTemp("", "kd") // short: a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return node{dir}
}

func (n node) records() string { return filepath.Join(n.dir, "records") }

func (n node) sandboxes() directvolume.Sandboxes {
	return directvolume.Sandboxes{GoDir: filepath.Join(n.dir, "run/vc/sbs"), RustDir: filepath.Join(n.dir, "run/kata")}
}

func (n node) store() *directvolume.Store {
	return directvolume.NewStore(n.records(), directvolume.WithSandboxes(n.sandboxes()))
}

func (n node) command(args ...string) *exec.Cmd {
	return exec.Command(program, append(args, "--root", n.records(), "--run", filepath.Join(n.dir, "run"))...)
}

// answer is what a run of the program gave.
type answer struct {
	status         int
	stdout, stderr string
}

func (n node) run(t *testing.T, args ...string) answer {
	t.Helper()
	cmd := n.command(args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return answer{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// device makes a disk of a size.
func (n node) device(t *testing.T, name string, size int64) string {
	t.Helper()
	path := filepath.Join(n.dir, name)
	must(os.WriteFile(path, nil, 0o600), os.Truncate(path, size))
	return path
}

// claimed records a device under /NAME and lets a living sandbox claim it.
func (n node) claimed(t *testing.T, name, sandbox string) (device string) {
	t.Helper()
	device = n.device(t, name, 1<<30)
	must(n.store().Add(t.Context(), "/"+name, directvolume.Record{Device: device, FSType: "ext4",
		Metadata: map[string]string{directvolume.MetadataVolumeID: "id-" + name}}))
	lease, err := n.sandboxes().AcquireLease(sandbox)
	must(err)
	t.Cleanup(func() { lease.Close() })
	_, err = n.store().Claim(t.Context(), "/"+name, sandbox)
	must(err)
	return device
}

// serve is the sandbox's management socket, as a shim serves it.
func (n node) serve(t *testing.T, sandbox string, handler http.HandlerFunc) {
	t.Helper()
	path := n.sandboxes().SocketPath(sandbox)
	must(os.MkdirAll(filepath.Dir(path), 0o700))
	listener, err := net.Listen("unix", path)
	must(err)
	server := &http.Server{Handler: handler}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Close()
		<-served
	})
}

// shim answers for one device, and notes what it was asked to resize to.
func shim(device string, stats directvolume.VolumeStats, resized *directvolume.ResizeRequest) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case directvolume.PathStats:
			if got := directvolume.StatsDevices(r.URL.RawQuery); len(got) == 0 || got[0] != device {
				http.Error(w, "no such volume", http.StatusInternalServerError)
				return
			}
			json.NewEncoder(w).Encode(stats)
		case directvolume.PathResize:
			if err := json.NewDecoder(r.Body).Decode(resized); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		default:
			http.NotFound(w, r)
		}
	}
}

func TestVersionSaysTheLinkedVersion(t *testing.T) {
	got := newNode(t).run(t, "--version")
	if got.status != 0 || !strings.HasPrefix(got.stdout, "katadirect v9.8.7 (go") || strings.Count(got.stdout, "\n") != 1 {
		t.Fatalf("%+v", got)
	}
}

func TestEveryCommandHasHelpWithAnExample(t *testing.T) {
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Example == "" || cmd.Short == "" {
			t.Errorf("%s has no example", cmd.CommandPath())
		}
		if cmd.HasSubCommands() {
			for _, sub := range cmd.Commands() {
				walk(sub)
			}
			return
		}
		if cmd.Name() == "exec" {
			return // what it prints is the program's
		}
		if cmd.Flags().Lookup("output") == nil {
			t.Errorf("%s has no --output", cmd.CommandPath())
		}
		got := newNode(t).run(t, append(strings.Fields(cmd.CommandPath())[1:], "--help")...)
		if got.status != 0 || !strings.Contains(got.stdout, "Examples:") || !strings.Contains(got.stdout, "--output") {
			t.Errorf("%s --help: %+v", cmd.CommandPath(), got)
		}
	}
	walk(newRoot())
}

func TestWhatCannotBeMeantIsAUsageErrorAndTouchesNothing(t *testing.T) {
	n := newNode(t)
	const info = `{"device":"/dev/sdf","fstype":"ext4"}`
	must(n.store().Add(t.Context(), "/keep", directvolume.Record{Device: "/dev/sdf", FSType: "ext4"}))
	for _, args := range [][]string{
		{"foo"},
		{"direct-volume"},
		{"direct-volume", "ad"},
		{"direct-volume", "add"},
		{"direct-volume", "add", "--volume-path", "/v"},
		{"direct-volume", "add", "--volume-path", "", "--mount-info", info},
		{"direct-volume", "add", "--volume-path", "relative", "--mount-info", info},
		{"direct-volume", "add", "--volume-path", "/a/../b", "--mount-info", info},
		{"direct-volume", "add", "--volume-path", "/" + strings.Repeat("k", 200), "--mount-info", info},
		{"direct-volume", "add", "--volume-path", "/v", "--mount-info", info, "extra"},
		{"direct-volume", "remove"},
		{"direct-volume", "remove", "--volume-path", ""},
		{"direct-volume", "remove", "--volume-path", "/"},
		{"direct-volume", "remove", "--volume-path", ".."},
		{"direct-volume", "stats", "--volume-path", ""},
		{"direct-volume", "stats", "--volume-path", "/keep", "--output", "xml"},
		{"direct-volume", "resize", "--volume-path", "/keep"},
		{"direct-volume", "resize", "--volume-path", "/keep", "--size", "0"},
		{"direct-volume", "resize", "--volume-path", "/keep", "--size", "-1"},
		{"direct-volume", "resize", "--volume-path", "/keep", "--size", "8Gi"},
		{"volume", "list", "extra"},
		{"volume", "inspect"},
		{"exec"},
		{"exec", "a", "b"},
		{"exec", "a", "b", "--", "c"},
		{"volume", "freeze"},
		{"volume", "thaw", "/keep", "--id", "x"},
		{"check", "--nonsense"},
	} {
		got := n.run(t, args...)
		if got.status != exitUsage || got.stdout != "" || !strings.HasPrefix(got.stderr, "katadirect: ") {
			t.Errorf("%q: %+v", args, got)
		}
		if entries, err := os.ReadDir(n.records()); err != nil || len(entries) != 1 {
			t.Fatalf("%q: the root now holds %v, %v", args, entries, err)
		}
	}
}

func TestAddWritesKatasRecordAndRemoveTakesItAway(t *testing.T) {
	n := newNode(t)
	const info = `{"volume-type":"block","device":"/dev/sdf","fstype":"ext4","metadata":{"fsGroup":"2000"},"options":["ro"]}`
	if got := n.run(t, "direct-volume", "add", "--volume-path", "/v", "--mount-info", info); got != (answer{}) {
		t.Fatalf("%+v", got)
	}
	file := filepath.Join(n.records(), "L3Y=", "mountInfo.json")
	if text, err := os.ReadFile(file); err != nil || string(text) != info {
		t.Fatalf("%s, %v", text, err)
	}
	for range 2 {
		if got := n.run(t, "direct-volume", "remove", "--volume-path", "/v"); got != (answer{}) {
			t.Fatalf("%+v", got)
		}
	}
	if entries, _ := os.ReadDir(n.records()); len(entries) != 0 {
		t.Fatalf("left over: %v", entries)
	}
}

// A machine that the driver does not know of writes what it likes, and the host would trust it if the mark stayed.
func TestAnImageOfAPoolLosesTheHostsMarkBeforeItIsRecordedByHand(t *testing.T) {
	n := newNode(t)
	p, err := pool.Open(t.Context(), t.TempDir(), pool.Options{Node: "node"})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for name, deviceOf := range map[string]func(image string) string{
		"by its path": func(image string) string { return image },
		"by a link": func(image string) string {
			link := filepath.Join(t.TempDir(), "link")
			if err := os.Symlink(image, link); err != nil {
				t.Fatal(err)
			}
			return link
		},
	} {
		v, err := p.Create(t.Context(), pool.Spec{Name: name, FSType: "ext4", Size: pool.SizeRange{RequiredBytes: 16 << 20}})
		if err == nil {
			err = p.MarkHostOnly(t.Context(), v.ID)
		}
		if err != nil {
			t.Fatal(err)
		}
		info := fmt.Sprintf(`{"device":%q,"fstype":"ext4"}`, deviceOf(v.ImagePath))
		if got := n.run(t, "direct-volume", "add", "--volume-path", "/"+v.ID, "--mount-info", info); got != (answer{}) {
			t.Fatalf("%s: %+v", name, got)
		}
		if marked, err := p.HostOnly(v.ID); err != nil || marked {
			t.Errorf("%s: it is still marked: %t, %v", name, marked, err)
		}
	}
}

func TestRefusedAddLeavesNothing(t *testing.T) {
	n := newNode(t)
	for _, info := range []string{`{`, `[]`, `{"fstype":"ext4"}`, `{"device":"dev","fstype":"ext4"}`, `{"device":"/dev/sdf","fstype":"ext4","options":["bind"]}`} {
		got := n.run(t, "direct-volume", "add", "--volume-path", "/v", "--mount-info", info)
		if got.status != exitInvalid || !strings.Contains(got.stderr, "--mount-info") {
			t.Errorf("%s: %+v", info, got)
		}
	}
	if _, err := os.Stat(n.records()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err) // Kata's tool has made an empty record by now
	}
}

func TestJSONOutputOfCommandsThatSayNothing(t *testing.T) {
	n := newNode(t)
	got := n.run(t, "direct-volume", "add", "-o", "json", "--volume-path", "/v", "--mount-info", `{"device":"/dev/sdf","fstype":"ext4"}`)
	var said result
	if err := json.Unmarshal([]byte(got.stdout), &said); err != nil || said.VolumePath != "/v" || said.Record.Device != "/dev/sdf" {
		t.Errorf("%+v, %v", got, err)
	}
}

var guestStats = directvolume.VolumeStats{
	Usage: []directvolume.VolumeUsage{
		{Available: 750, Total: 1000, Used: 250, Unit: directvolume.UnitBytes},
		{Available: 5, Total: 5, Unit: directvolume.UnitInodes},
	},
	Condition: directvolume.VolumeCondition{Message: "OK"},
}

func TestStatsPrintsWhatTheGuestSays(t *testing.T) {
	n := newNode(t)
	device := n.claimed(t, "a+b% c", "s1")
	n.serve(t, "s1", shim(device, guestStats, nil))
	got := n.run(t, "direct-volume", "stats", "--volume-path", "/a+b% c")
	want := `{"usage":[{"available":750,"total":1000,"used":250,"unit":1},{"available":5,"total":5,"unit":2}],"volume_condition":{"message":"OK"}}` + "\n"
	if got != (answer{stdout: want}) {
		t.Errorf("%+v", got)
	}
	got = n.run(t, "direct-volume", "stats", "--volume-path", "/a+b% c", "--output", "text")
	if got.status != 0 || !strings.Contains(got.stdout, "1000   250        750") || !strings.Contains(got.stdout, "condition: normal: OK") {
		t.Errorf("%+v", got)
	}
}

func TestResizeTellsTheSandboxTheDeviceAndTheSize(t *testing.T) {
	n := newNode(t)
	device := n.claimed(t, "v", "s1")
	var resized directvolume.ResizeRequest
	n.serve(t, "s1", shim(device, guestStats, &resized))
	if got := n.run(t, "direct-volume", "resize", "--volume-path", "/v", "--size", "2147483648"); got != (answer{}) {
		t.Fatalf("%+v", got)
	}
	if resized != (directvolume.ResizeRequest{VolumePath: device, Size: 2147483648}) {
		t.Fatalf("%+v", resized)
	}
}

// In Kata's tool stats succeeds whatever the shim answers.
func TestAnswerOfTheShimThatIsNoSuccessFails(t *testing.T) {
	n := newNode(t)
	n.claimed(t, "v", "s1")
	var code atomic.Int64
	n.serve(t, "s1", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(int(code.Load()))
		io.WriteString(w, "the guest is gone")
	})
	for _, c := range []int64{400, 404, 500, 503, 204} {
		code.Store(c)
		for _, args := range []string{"direct-volume stats --volume-path /v", "direct-volume resize --volume-path /v --size 5"} {
			got := n.run(t, strings.Fields(args)...)
			if got.status != exitFailed || got.stdout != "" || !strings.Contains(got.stderr, fmt.Sprint(c)) {
				t.Errorf("%d, %s: %+v", c, args, got)
			}
		}
	}
}

func TestStatusSaysWhatKindOfFailureItWas(t *testing.T) {
	n := newNode(t)
	device := n.claimed(t, "claimed", "s1") // lives, has no socket
	must(n.store().Add(t.Context(), "/idle", directvolume.Record{Device: "/dev/sdf", FSType: "ext4"}))
	must(n.store().Add(t.Context(), "/torn", directvolume.Record{Device: "/dev/sdf", FSType: "ext4"}))
	must(os.Truncate(filepath.Join(n.records(), directvolume.EncodeKey("/torn"), "mountInfo.json"), 10))
	other := `{"device":"/dev/other","fstype":"ext4"}`
	for name, test := range map[string]struct {
		args string
		want int
	}{
		"stats, no record":     {"direct-volume stats --volume-path /none", exitNotFound},
		"resize, no record":    {"direct-volume resize --size 5 --volume-path /none", exitNotFound},
		"stats, no sandbox":    {"direct-volume stats --volume-path /idle", exitNotFound},
		"stats, no socket":     {"direct-volume stats --volume-path /claimed", exitNotFound},
		"inspect, unknown":     {"volume inspect /none", exitNotFound},
		"inspect, unknown id":  {"volume inspect id-none", exitNotFound},
		"remove, in use":       {"direct-volume remove --volume-path /claimed", exitInUse},
		"add, in use":          {"direct-volume add --volume-path /claimed --mount-info " + other, exitInUse},
		"add, same device":     {`direct-volume add --volume-path /claimed --mount-info {"device":"` + device + `","fstype":"ext4"}`, exitOK},
		"stats, torn record":   {"direct-volume stats --volume-path /torn", exitInvalid},
		"inspect, torn record": {"volume inspect /torn", exitInvalid},
		"inspect, device gone": {"volume inspect /idle", exitInvalid},
		"remove, torn record":  {"direct-volume remove --volume-path /torn-not", exitOK},
	} {
		if got := n.run(t, strings.Fields(test.args)...); got.status != test.want {
			t.Errorf("%s: %+v, want status %d", name, got, test.want)
		}
	}
}

func TestListAndInspectShowEveryVolume(t *testing.T) {
	n := newNode(t)
	device := n.claimed(t, "v", "0123456789abcdef0123")
	n.serve(t, "0123456789abcdef0123", shim(device, guestStats, nil))
	hostile := filepath.Join(n.records(), directvolume.EncodeKey("/b\x1b[31mad"))
	must(os.Mkdir(hostile, 0o700))

	got := n.run(t, "volume", "list")
	lines := strings.Split(got.stdout, "\n")
	if got.status != 0 || len(lines) < 4 ||
		!strings.HasPrefix(lines[1], "bad ") || !strings.HasPrefix(lines[2], "normal  1 GiB  25%   ext4  0123456789abc  "+device+"  /v") {
		t.Errorf("%+v", got)
	}
	if strings.Contains(got.stdout, "\x1b") {
		t.Error("a path can move the terminal's cursor")
	}

	got = n.run(t, "volume", "list", "--output", "json")
	var volumes []map[string]any
	if err := json.Unmarshal([]byte(got.stdout), &volumes); err != nil || len(volumes) != 2 || volumes[1]["state"] != "normal" || volumes[1]["size_bytes"] != 1073741824.0 {
		t.Errorf("%+v, %v", got, err)
	}
	for _, name := range []string{"/v", "id-v"} {
		got := n.run(t, "volume", "inspect", name)
		for _, want := range []string{"normal", device, "id-v", "0123456789abcdef0123", "1000 total, 250 used, 750 available", "OK"} {
			if got.status != 0 || !strings.Contains(got.stdout, want) {
				t.Errorf("inspect %s does not say %q: %+v", name, want, got)
			}
		}
	}
}

func TestListOfAnEmptyNodeIsEmpty(t *testing.T) {
	if got := newNode(t).run(t, "volume", "list", "--output", "json"); got.status != 0 || got.stdout != "[]\n" {
		t.Fatalf("%+v", got)
	}
}

func TestCheckFailsWhereNothingIsInstalled(t *testing.T) {
	n := newNode(t)
	missing := filepath.Join(n.dir, "config.toml")
	got := n.run(t, "check", "--containerd-config", missing, "--output", "json")
	var report struct {
		Usable   bool
		Findings []struct{ Check, Severity, Message, Advice string }
	}
	if err := json.Unmarshal([]byte(got.stdout), &report); err != nil || got.status != exitFailed || report.Usable {
		t.Fatalf("%+v, %v", got, err)
	}
	if first := report.Findings[0]; first.Check != "containerd" || first.Severity != "error" || !strings.Contains(first.Message, missing) || first.Advice == "" {
		t.Errorf("%+v", first)
	}
	text := n.run(t, "check", "--containerd-config", missing)
	if text.status != exitFailed || !strings.Contains(text.stdout, "cannot run direct volumes yet") {
		t.Errorf("%+v", text)
	}
}

func TestGuestBuildWithoutAnAgentIsRefused(t *testing.T) {
	n := newNode(t)
	got := n.run(t, "guest", "build", "--dir", filepath.Join(n.dir, "image"), "--cache", n.dir, "--agent", filepath.Join(n.dir, "no-agent"))
	if got.status != exitFailed || !strings.Contains(got.stderr, "agent") {
		t.Fatalf("%+v", got)
	}
	if _, err := os.Stat(filepath.Join(n.dir, "image")); !errors.Is(err, os.ErrNotExist) {
		t.Error("something was made")
	}
}
