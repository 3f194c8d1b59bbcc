package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/katadirect/katadirect/internal/claims"
	"github.com/katadirect/katadirect/pkg/csi/facts"
)

var update = flag.Bool("update", false, "write the golden files anew")

func testdata(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// shop is a cluster of two nodes: alpha's driver answers, in two pages, and beta's does not.
func shop(t *testing.T) *apiServer {
	t.Helper()
	s := serve(t, testdata(t, "shop.yaml"))
	handle := fmt.Sprintf("csi-%x", sha256.Sum256([]byte("u-db"+"tmp")))
	var alpha facts.Node
	if err := yaml.Unmarshal([]byte(ago(t, strings.ReplaceAll(testdata(t, "alpha.yaml"), "HANDLE", handle))), &alpha); err != nil {
		t.Fatal(err)
	}
	s.paths[proxied("alpha")] = func(w http.ResponseWriter, r *http.Request) {
		page := alpha
		if after := r.URL.Query().Get(facts.QueryAfter); after == "" {
			page.Volumes, page.Next = alpha.Volumes[:2], alpha.Volumes[1].ID
		} else {
			page.Volumes = alpha.Volumes[2:]
		}
		answer(w, http.StatusOK, page)
	}
	s.paths[proxied("beta")] = refuse(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "dial tcp 10.0.0.2:9809: connect: connection refused")
	return s
}

// golden compares with a file, and writes it with -update.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(testdata(t, name+".golden"), got); diff != "" {
		t.Errorf("%s (-want +got; -update writes it anew):\n%s", name, diff)
	}
}

func TestWhatIsShown(t *testing.T) {
	for name, args := range map[string][]string{
		"volumes":          {"volumes"},
		"volumes-all-wide": {"volumes", "-A", "-o", "wide"},
		"describe-data":    {"describe", "data"},
		"describe-logs":    {"describe", "pvc/logs"},
		"describe-grow":    {"describe", "grow"},
		"describe-waiting": {"describe", "waiting"},
		"describe-far":     {"describe", "far"},
		"describe-disk":    {"describe", "disk", "-n", "lab"},
		"describe-shared":  {"describe", "shared", "-n", "lab"},
		"top":              {"top", "-A"},
		"top-inodes":       {"top", "--sort-by", "inodes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := shop(t).run(args...)
			if code != exitOK {
				t.Fatalf("%v exits with %d: %s", args, code, stderr)
			}
			golden(t, name, stdout+"--- standard error\n"+stderr)
		})
	}
}

func TestJSONHasEverything(t *testing.T) {
	for _, format := range []string{"json", "yaml"} {
		code, stdout, stderr := shop(t).run("volumes", "-A", "-o", format)
		var view claims.View
		if err := yaml.Unmarshal([]byte(stdout), &view); err != nil || code != exitOK {
			t.Fatalf("%s: %d %v %s", format, code, err, stderr)
		}
		if stderr != "" {
			t.Errorf("%s: beside it %q is said", format, stderr)
		}
		by := map[string]claims.Volume{}
		for _, v := range view.Volumes {
			by[v.Namespace+"/"+v.Claim+v.Inline] = v
		}
		data := by["shop/data"]
		if len(by) != 8 || data.Facts == nil || data.Facts.Usage.UsedBytes != 411041792 || len(data.Snapshots) != 2 || data.Condition != claims.Healthy {
			t.Errorf("%s: %d volumes, and data is %+v", format, len(by), data)
		}
		if far := by["shop/far"]; far.Condition != claims.Unknown || !strings.Contains(far.Missing, "connection refused") {
			t.Errorf("%s: far is %+v", format, far)
		}
		if inline := by["shop/tmp"]; inline.Facts == nil || inline.Handle != "kd-1-tmp" {
			t.Errorf("%s: the inline volume is %+v", format, inline)
		}
		if len(view.Nodes) != 2 || view.Nodes[0].Pool == nil || view.Nodes[1].Problem == "" || len(view.Notes) != 1 {
			t.Errorf("%s: nodes %+v, notes %q", format, view.Nodes, view.Notes)
		}
	}
	if code, stdout, _ := shop(t).run("volumes", "-o", "json"); code != exitOK || !json.Valid([]byte(stdout)) {
		t.Errorf("%d, not JSON:\n%s", code, stdout)
	}
}

// What one may not read is left out, and said with what to do about it; the rest is shown.
func TestWhatCannotBeFoundOutIsSaid(t *testing.T) {
	tests := map[string]struct {
		change func(*apiServer)
		args   []string
		shown  []string // on standard output
		note   []string
	}{
		"no right to ask drivers": {
			change: func(s *apiServer) { s.paths[proxied("alpha")] = forbidden },
			shown:  []string{"data", "<unknown>/1Gi", "Unknown"},
			note:   []string{"node alpha: you may not ask", "Role katadirect-view in namespace katadirect", "pods/proxy"},
		},
		"no right to find drivers": {
			change: func(s *apiServer) { s.paths["/api/v1/pods"] = forbidden },
			shown:  []string{"data", "db-0", "Unknown"},
			note:   []string{"may not list the driver's pods in all namespaces", "--driver-namespace"},
		},
		"no right to read volumes, where drivers know the names": {
			change: func(s *apiServer) {
				s.paths["/api/v1/persistentvolumes"] = forbidden
				for _, claim := range s.objects["persistentvolumeclaims"] {
					claim["metadata"].(map[string]any)["annotations"] = map[string]any{"volume.kubernetes.io/storage-provisioner": claims.Driver}
				}
			},
			shown: []string{"392Mi/1Gi", "/dev/vda"},
			note:  []string{"you may not list persistent volumes", "ClusterRole katadirect-view"},
		},
		"no right to read pods of one's own": {
			change: func(s *apiServer) { s.paths["/api/v1/namespaces/shop/pods"] = forbidden },
			shown:  []string{"392Mi/1Gi", "<none>"},
			note:   []string{"you may not list pods, so who uses a claim is unknown"},
		},
		"events away": {
			change: func(s *apiServer) {
				s.paths["/api/v1/namespaces/shop/events"] = refuse(500, metav1.StatusReasonInternalError, "etcd is on fire")
			},
			shown: []string{"data", "growing the volume in its pod failed"},
			note:  []string{"events could not be read", "etcd is on fire"},
		},
		"no snapshots in this cluster": {
			change: func(s *apiServer) { delete(s.objects, "volumesnapshots") },
			shown:  []string{"data"},
		},
		"a driver without its port": {
			change: func(s *apiServer) {
				for _, pod := range s.objects["pods"] {
					if pod["metadata"].(map[string]any)["name"] == "csi-alpha" {
						pod["spec"] = map[string]any{"nodeName": "alpha", "containers": []any{map[string]any{"name": "csi-node"}}}
					}
				}
			},
			shown: []string{"Unknown"},
			note:  []string{"katadirect/csi-alpha has no port named http", "--http-endpoint"},
		},
		"no driver anywhere": {
			change: func(*apiServer) {},
			args:   []string{"--driver-selector", "app=other"},
			shown:  []string{"Unknown"},
			note:   []string{"no pod of the driver was found (app=other in all namespaces)"},
		},
		"a driver that is too old": {
			change: func(s *apiServer) { s.paths[proxied("alpha")] = http.NotFound },
			shown:  []string{"Unknown"},
			note:   []string{"of a version that cannot be asked"},
		},
		"a driver that talks nonsense": {
			change: func(s *apiServer) {
				s.paths[proxied("alpha")] = func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }
			},
			shown: []string{"Unknown"},
			note:  []string{"katadirect/csi-alpha (Running) could not be asked: invalid character"},
		},
		"a driver without end": {
			change: func(s *apiServer) {
				s.paths[proxied("alpha")] = func(w http.ResponseWriter, _ *http.Request) {
					answer(w, http.StatusOK, facts.Node{Next: "again"})
				}
			},
			shown: []string{"Unknown"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := shop(t)
			test.change(s)
			code, stdout, stderr := s.run(append([]string{"volumes"}, test.args...)...)
			if code != exitOK {
				t.Errorf("it exits with %d", code)
			}
			for _, want := range test.shown {
				if !strings.Contains(stdout, want) {
					t.Errorf("no %q in\n%s", want, stdout)
				}
			}
			for _, want := range test.note {
				if !strings.Contains(stderr, want) {
					t.Errorf("no %q in\n%s", want, stderr)
				}
			}
		})
	}
}

func TestASlowNodeIsWaitedForOnlySoLong(t *testing.T) {
	t.Parallel() // it takes as long as the node is waited for, which must be enough for alpha on a busy machine
	s := shop(t)
	over := make(chan struct{})
	defer close(over)
	s.paths[proxied("beta")] = func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-over:
		case <-r.Context().Done():
		}
	}
	code, stdout, stderr := s.run("volumes", "--node-timeout", "10s")
	if code != exitOK || !strings.Contains(stdout, "392Mi/1Gi") {
		t.Errorf("%d:\n%s", code, stdout)
	}
	for _, want := range []string{"waiting for . of 2 nodes, for 10s each at the most: .*beta", "has not answered within 10s", "kubectl -n katadirect logs csi-beta"} {
		if !regexp.MustCompile(want).MatchString(stderr) {
			t.Errorf("no %q in\n%s", want, stderr)
		}
	}
}

func TestExitStatuses(t *testing.T) {
	tests := map[string]struct {
		args   []string
		change func(*apiServer)
		code   int
		words  string
	}{
		"help":                  {args: []string{"--help"}, code: exitOK},
		"no such command":       {args: []string{"frobnicate"}, code: exitUsage, words: "frobnicate"},
		"no such flag":          {args: []string{"volumes", "--frobnicate"}, code: exitUsage},
		"no such format":        {args: []string{"volumes", "-o", "xml"}, code: exitUsage, words: "table, wide, json, yaml"},
		"no claim named":        {args: []string{"describe"}, code: exitUsage},
		"describe of all":       {args: []string{"describe", "data", "-A"}, code: exitUsage, words: "--namespace"},
		"no such order":         {args: []string{"top", "--sort-by", "colour"}, code: exitUsage},
		"a flood":               {args: []string{"top", "--watch", "--interval", "1ms"}, code: exitUsage},
		"no time":               {args: []string{"top", "--node-timeout", "0s"}, code: exitUsage},
		"no such claim":         {args: []string{"describe", "nothing"}, code: exitNotFound, words: "nothing in namespace shop"},
		"another driver's":      {args: []string{"describe", "foreign"}, code: exitNotFound, words: "another driver's volume"},
		"no such context":       {args: []string{"volumes", "--context", "moon"}, code: exitNoCluster, words: "moon"},
		"nobody listens":        {args: []string{"volumes", "--server", "http://127.0.0.1:1"}, code: exitNoCluster, words: "refused"},
		"claims are not for us": {args: []string{"volumes"}, change: func(s *apiServer) { s.paths["/api/v1/namespaces/shop/persistentvolumeclaims"] = forbidden }, code: exitNoCluster, words: "not allowed"},
		"the server fails": {args: []string{"volumes"}, change: func(s *apiServer) {
			s.paths["/api/v1/namespaces/shop/persistentvolumeclaims"] = refuse(500, metav1.StatusReasonInternalError, "on fire")
		}, code: exitFailed, words: "on fire"},
		"nothing there": {args: []string{"volumes", "-n", "empty"}, code: exitOK, words: "No volumes of katadirect found in namespace empty."},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := shop(t)
			if test.change != nil {
				test.change(s)
			}
			code, stdout, stderr := s.run(test.args...)
			if code != test.code || !strings.Contains(stderr, test.words) {
				t.Errorf("exits with %d, want %d and %q: %s%s", code, test.code, test.words, stdout, stderr)
			}
		})
	}
}

// tables is standard output that interrupts whoever writes a second table to it.
type tables struct {
	strings.Builder
	interrupt func()
}

func (o *tables) Write(p []byte) (int, error) {
	n, err := o.Builder.Write(p)
	if o.count() >= 2 {
		o.interrupt()
	}
	return n, err
}

func (o *tables) count() int { return strings.Count(o.String(), "CLAIM") }

func TestTopWatchesUntilItIsInterrupted(t *testing.T) {
	s := shop(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out := tables{interrupt: cancel}
	var errs strings.Builder
	code := run(ctx, []string{"top", "--watch", "--interval", "1s", "--kubeconfig", s.kubeconfig("shop")}, &out, &errs)
	if code != exitInterrupted || out.count() < 2 {
		t.Errorf("exits with %d after %d tables: %s", code, out.count(), errs.String())
	}
}
