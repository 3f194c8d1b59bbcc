package qemu_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"github.com/katadirect/katadirect/internal/guestimage"
)

// The test guest's images are the real kernel with the test guest for its init; the whole one has all modules.
var (
	bareImage  = sync.OnceValues(func() (guestimage.Image, error) { return buildImage(true) })
	wholeImage = sync.OnceValues(func() (guestimage.Image, error) { return buildImage(false) })
)

func buildImage(bare bool) (guestimage.Image, error) {
	dir, err := os.MkdirTemp("", "katadirect-testguest-")
	if err != nil {
		return guestimage.Image{}, err
	}
	cleanups = append(cleanups, func() { _ = os.RemoveAll(dir) })
	init := filepath.Join(dir, "testguest")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", init, "./testguest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return guestimage.Image{}, fmt.Errorf("build the test guest: %w\n%s", err, out)
	}
	return guestimage.Build(context.Background(), guestimage.Options{
		Output: filepath.Join(dir, "image"), AgentPath: init, Bare: bare,
	})
}

// cleanups run when all tests are done.
var cleanups []func()
