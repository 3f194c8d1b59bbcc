// Package artifacts builds what the tests under test/ run: the programs and the guest's image, from this tree, once
// per test program. So a test never runs a program older than its source.
//
// It knows how things are built and where tests find them. What is done with them belongs to the tests.
package artifacts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/katadirect/katadirect/internal/guestimage"
	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
)

// programs maps the names of the programs to their packages.
var programs = map[string]string{
	"csi-node":                      "./cmd/csi-node",
	"agent":                         "./cmd/agent",
	"katadirect":                    "./cmd/katadirect",
	"containerd-shim-katadirect-v2": "./cmd/shim",
}

var (
	// BinDir holds the programs, Image what guests boot. Both are set by Main.
	BinDir string
	Image  guestimage.Image
)

// buildTimeout bounds a build with cold caches.
const buildTimeout = 15 * time.Minute

// Main is for TestMain: it builds everything, runs the tests and removes what it built.
func Main(m *testing.M) {
	lab.Init()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "katadirect-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := build(dir); err != nil {
		fmt.Fprintln(os.Stderr, "build what the tests run:", err)
		return 1
	}
	return m.Run()
}

func build(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	module, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("find the module: %w", err)
	}
	for name := range programs {
		if err := buildProgram(ctx, strings.TrimSpace(string(module)), dir, name, ""); err != nil {
			return err
		}
	}
	BinDir = dir
	Image, err = guestimage.Build(ctx, guestimage.Options{
		Output: filepath.Join(dir, "guest"), AgentPath: filepath.Join(dir, "agent"),
	})
	return err
}

func buildProgram(ctx context.Context, module, dir, name, linkerFlags string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w "+linkerFlags, "-o", filepath.Join(dir, name), programs[name])
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, said)
	}
	return nil
}

// Next puts programs into dir of which the driver calls itself another version.
func Next(ctx context.Context, dir, version string) error {
	module, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("find the module: %w", err)
	}
	for name := range programs {
		if name != "csi-node" {
			if err := os.Symlink(filepath.Join(BinDir, name), filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	return buildProgram(ctx, strings.TrimSpace(string(module)), dir, "csi-node", "-X github.com/katadirect/katadirect/internal/version.Version="+version)
}

// NodeOptions are for a node with this containerd.
func NodeOptions(flavour lab.Flavour) kubelet.Options {
	return kubelet.Options{Containerd: flavour, BinDir: BinDir, Image: Image}
}

// Node opens a node for one test, and fails the test if anything of it is left over at its end.
func Node(t *testing.T, flavour lab.Flavour) *kubelet.Node {
	t.Helper()
	return NodeWith(t, NodeOptions(flavour))
}

// NodeWith is Node with other options.
func NodeWith(t *testing.T, options kubelet.Options) *kubelet.Node {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	n, err := kubelet.Open(ctx, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 3*time.Minute)
		defer cancel()
		err := errors.Join(n.RemovePods(ctx))
		// What was left over is explained by what was said before it was removed.
		words, driver := n.Lab.Containerd().LastWords(), n.Driver().LastWords()
		left, closeErr := n.Close(ctx)
		if err := errors.Join(err, closeErr); err != nil {
			t.Error(err)
		}
		if len(left) > 0 {
			t.Errorf("left over:\n%s", strings.Join(left, "\n"))
		}
		if t.Failed() {
			t.Logf("containerd's and the shims' last words:\n%s", words)
			t.Logf("csi-node's last words:\n%s", driver)
		}
	})
	return n
}
