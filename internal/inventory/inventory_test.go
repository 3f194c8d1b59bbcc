package inventory

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

// testNode is a node of a test's own.
type testNode struct {
	Node
	t   *testing.T
	dir string
}

func newTestNode(t *testing.T) testNode {
	dir, err := os.MkdirTemp("", "kd") // short: a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	sandboxes := directvolume.Sandboxes{GoDir: filepath.Join(dir, "sbs"), RustDir: filepath.Join(dir, "rs"), ProcDir: dir}
	store := directvolume.NewStore(filepath.Join(dir, "records"), directvolume.WithSandboxes(sandboxes))
	return testNode{Node{Store: store, Sandboxes: sandboxes, Timeout: time.Minute}, t, dir}
}

func (n testNode) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

// added records a file of 1 MiB under a path.
func (n testNode) added(path string) (device string) {
	device = filepath.Join(n.dir, strings.ReplaceAll(path, "/", "disk-"))
	n.must(os.WriteFile(device, nil, 0o600))
	n.must(os.Truncate(device, 1<<20))
	n.must(n.Store.Add(n.t.Context(), path, directvolume.Record{Device: device, FSType: "ext4",
		Metadata: map[string]string{directvolume.MetadataVolumeID: "id" + strings.ReplaceAll(path, "/", "-")}}))
	return device
}

// claimed lets a living sandbox have a volume.
func (n testNode) claimed(path, sandbox string) {
	lease, err := n.Sandboxes.AcquireLease(sandbox)
	n.must(err)
	n.t.Cleanup(func() { lease.Close() })
	_, err = n.Store.Claim(n.t.Context(), path, sandbox)
	n.must(err)
}

func (n testNode) serve(sandbox string, handler http.HandlerFunc) {
	listener, err := net.Listen("unix", n.Sandboxes.SocketPath(sandbox))
	n.must(err)
	server := &http.Server{Handler: handler}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	n.t.Cleanup(func() {
		server.Close()
		<-served
	})
}

func answers(stats directvolume.VolumeStats) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(stats) }
}

func TestStateOfAVolume(t *testing.T) {
	end := make(chan struct{})
	defer close(end)
	tests := map[string]struct {
		arrange func(n testNode, device string)
		want    State
		problem string // a regular expression
	}{
		"idle": {func(testNode, string) {}, StateIdle, ""},
		"normal": {func(n testNode, _ string) {
			n.claimed("/v", "s1")
			n.serve("s1", answers(directvolume.VolumeStats{Condition: directvolume.VolumeCondition{Message: "OK"}}))
		}, StateNormal, ""},
		"abnormal": {func(n testNode, _ string) {
			n.claimed("/v", "s1")
			n.serve("s1", answers(directvolume.VolumeStats{Condition: directvolume.VolumeCondition{Abnormal: true, Message: "read-only"}}))
		}, StateAbnormal, "read-only"},
		"silent: no socket": {func(n testNode, _ string) { n.claimed("/v", "s1") }, StateSilent, "neither"},
		"silent: no answer": {func(n testNode, _ string) {
			n.claimed("/v", "s1")
			n.serve("s1", func(http.ResponseWriter, *http.Request) { <-end })
		}, StateSilent, "deadline|timeout"},
		"silent: an error": {func(n testNode, _ string) {
			n.claimed("/v", "s1")
			n.serve("s1", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "agent is gone", 500) })
		}, StateSilent, "agent is gone"},
		"bad: device gone": {func(n testNode, device string) { n.must(os.Remove(device)) }, StateBad, "no such file"},
		"bad: device gone under a guest that is well": {func(n testNode, device string) {
			n.claimed("/v", "s1")
			n.serve("s1", answers(directvolume.VolumeStats{}))
			n.must(os.Remove(device))
		}, StateBad, "no such file"},
		"bad: device a FIFO": {func(n testNode, device string) {
			n.must(os.Remove(device))
			n.must(unix.Mkfifo(device, 0o600))
		}, StateBad, "neither a block device nor a regular file"},
		"bad: two sandboxes": {func(n testNode, _ string) {
			n.claimed("/v", "s1")
			lease, err := n.Sandboxes.AcquireLease("s2")
			n.must(err)
			n.t.Cleanup(func() { lease.Close() })
			n.must(os.WriteFile(filepath.Join(n.Store.Root(), directvolume.EncodeKey("/v"), "s2"), nil, 0o600))
		}, StateBad, "2 sandboxes"},
		"bad: record torn": {func(n testNode, _ string) {
			n.must(os.Truncate(filepath.Join(n.Store.Root(), directvolume.EncodeKey("/v"), "mountInfo.json"), 9))
		}, StateBad, "invalid direct volume record"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			n := newTestNode(t)
			test.arrange(n, n.added("/v"))
			if name == "silent: no answer" {
				n.Timeout = 300 * time.Millisecond // the others are to answer, however long a busy machine takes
			}
			listed, err := n.Volumes(t.Context())
			if err != nil || len(listed) != 1 {
				t.Fatalf("%+v, %v", listed, err)
			}
			found, err := n.Find(t.Context(), "/v")
			if err != nil || len(found) != 1 {
				t.Fatalf("%+v, %v", found, err)
			}
			problem := regexp.MustCompile(test.problem)
			for _, v := range []Volume{listed[0], found[0]} {
				if v.State != test.want || !problem.MatchString(v.Problem) || (test.problem == "") != (v.Problem == "") || v.VolumePath != "/v" {
					t.Errorf("%+v", v)
				}
			}
		})
	}
}

func TestSizesAreTheDevices(t *testing.T) {
	n := newTestNode(t)
	n.added("/v")
	volumes, err := n.Volumes(t.Context())
	if err != nil || volumes[0].SizeBytes != 1<<20 || volumes[0].AllocatedBytes != 0 || volumes[0].Backing != directvolume.BackingFile {
		t.Fatalf("%+v, %v", volumes, err)
	}
}

func TestVolumeIsFoundByItsID(t *testing.T) {
	n := newTestNode(t)
	n.added("/a")
	n.added("/b")
	found, err := n.Find(t.Context(), "id-b")
	if err != nil || len(found) != 1 || found[0].VolumePath != "/b" || found[0].VolumeID != "id-b" {
		t.Fatalf("%+v, %v", found, err)
	}
	for _, unknown := range []string{"id-c", "/c", "", "../a"} {
		if _, err := n.Find(t.Context(), unknown); !errors.Is(err, directvolume.ErrNotFound) {
			t.Errorf("%q: %v", unknown, err)
		}
	}
}

// One guest that does not answer must not make a list of a hundred volumes take a hundred time-outs. This one answers
// nobody before it is asked for all of its volumes.
func TestStuckGuestsAreAskedAtOnce(t *testing.T) {
	n := newTestNode(t)
	var asked atomic.Int32
	all := make(chan struct{})
	n.claimed(func() string { n.added("/v0"); return "/v0" }(), "s1")
	n.serve("s1", func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == 8 {
			close(all)
		}
		select {
		case <-all:
			answers(directvolume.VolumeStats{})(w, r)
		case <-r.Context().Done():
		}
	})
	for _, path := range []string{"/v1", "/v2", "/v3", "/v4", "/v5", "/v6", "/v7"} {
		n.added(path)
		_, err := n.Store.Claim(t.Context(), path, "s1")
		n.must(err)
	}
	n.Timeout = 20 * time.Second
	volumes, err := n.Volumes(t.Context())
	if err != nil || len(volumes) != 8 {
		t.Fatalf("%+v, %v", volumes, err)
	}
	for _, v := range volumes {
		if v.State == StateSilent {
			t.Errorf("%s was asked for after others had been given up: %s", v.VolumePath, v.Problem)
		}
	}
}
