package container

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

func TestTerminationMessage(t *testing.T) {
	const secret = "not the container's"
	for name, tc := range map[string]struct {
		path   string
		mounts func(dir string) []specs.Mount
		put    func(t *testing.T, dir string)
		want   string
		fails  bool
	}{
		"a file mounted at kubelet's default": {
			path:   agentproto.DefaultMessagePath,
			mounts: func(dir string) []specs.Mount { return []specs.Mount{bindAt("/dev/termination-log", dir+"/log")} },
			put:    func(t *testing.T, dir string) { write(t, dir+"/log", "out of luck") },
			want:   "out of luck",
		},
		"below a mounted folder": {
			path:   "/var/log/app/last",
			mounts: func(dir string) []specs.Mount { return []specs.Mount{bindAt("/var/log", dir+"/volume")} },
			put:    func(t *testing.T, dir string) { write(t, dir+"/volume/app/last", "from a volume") },
			want:   "from a volume",
		},
		"in the root file system": {
			path: "/tmp/last",
			put:  func(t *testing.T, dir string) { write(t, dir+"/rootfs/tmp/last", "from the root") },
			want: "from the root",
		},
		"none": {path: agentproto.DefaultMessagePath},
		"in memory that is gone": {
			path: "/dev/termination-log",
			mounts: func(string) []specs.Mount {
				return []specs.Mount{{Destination: "/dev", Type: "tmpfs", Source: "tmpfs"}}
			},
			put: func(t *testing.T, dir string) { write(t, dir+"/rootfs/dev/termination-log", "below the mount") },
		},
		"longer than anybody reads": {
			path: "/last",
			put:  func(t *testing.T, dir string) { write(t, dir+"/rootfs/last", strings.Repeat("x", 2*maxMessage)) },
			want: strings.Repeat("x", maxMessage),
		},
		"a link out of the container": {
			path: "/last",
			put: func(t *testing.T, dir string) {
				write(t, dir+"/secret", secret)
				if err := os.Symlink("../secret", dir+"/rootfs/last"); err != nil {
					t.Fatal(err)
				}
			},
			fails: true,
		},
		"a FIFO, which nobody may wait for": {
			path: "/last",
			put: func(t *testing.T, dir string) {
				if err := unix.Mkfifo(dir+"/rootfs/last", 0o600); err != nil {
					t.Fatal(err)
				}
			},
			fails: true,
		},
		"a bind mount that calls its type none": {
			path: "/data/last",
			mounts: func(dir string) []specs.Mount {
				return []specs.Mount{{Destination: "/data", Type: "none", Source: dir + "/volume", Options: []string{"rbind"}}}
			},
			put:  func(t *testing.T, dir string) { write(t, dir+"/volume/last", "from a volume") },
			want: "from a volume",
		},
		"a folder": {
			path:  "/last",
			put:   func(t *testing.T, dir string) { write(t, dir+"/rootfs/last/x", "") },
			fails: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir+"/rootfs/etc/hostname", "")
			spec := &specs.Spec{Root: &specs.Root{Path: dir + "/rootfs"}}
			if tc.mounts != nil {
				spec.Mounts = tc.mounts(dir)
			}
			if tc.put != nil {
				tc.put(t, dir)
			}
			c := &Container{ID: "c1", runtime: &Runtime{Dir: dir + "/bundles"}, message: tc.path}
			if err := os.MkdirAll(c.runtime.bundle("c1"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := writeJSON(filepath.Join(c.runtime.bundle("c1"), "config.json"), spec); err != nil {
				t.Fatal(err)
			}
			got, err := c.TerminationMessage()
			if got != tc.want || (err != nil) != tc.fails {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

func TestKubeletSaysWhereTheTerminationMessageIs(t *testing.T) {
	for path, want := range map[string]string{"": agentproto.DefaultMessagePath, "/a/../b": "/b", "relative": agentproto.DefaultMessagePath} {
		if got := messagePath(&specs.Spec{Annotations: map[string]string{agentproto.AnnotationMessagePath: path}}); got != want {
			t.Errorf("%q: %q", path, got)
		}
	}
}

func bindAt(destination, source string) specs.Mount {
	return specs.Mount{Destination: destination, Type: "bind", Source: source}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
