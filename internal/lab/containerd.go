package lab

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"text/template"
	"time"

	"golang.org/x/mod/semver"
)

// Flavour is one of the containerds the project is tried with.
type Flavour string

const (
	// Debian is Debian 12's containerd 1.6, unpacked from its package and not installed.
	Debian Flavour = "debian"
	// V2 is containerd 2.x, built from its Go module by hack/containerd.
	V2 Flavour = "2"
)

// Flavours are all there are.
var Flavours = []Flavour{Debian, V2}

// ErrNoContainerd is returned when the programs are not in the cache.
var ErrNoContainerd = errors.New("containerd is not in the cache: run \"make containerd\" first")

// startTimeout bounds containerd's start, a cold one on a busy machine.
const startTimeout = time.Minute

//go:embed containerd-1.toml
var configV1 string

//go:embed containerd-2.toml
var configV2 string

// registryHosts sends containerd to the lab's registry for images of every name. Without one it stays empty, and
// nothing is pulled.
const registryHosts = `{{with .Registry}}server = "http://{{.}}"
{{end}}`

//go:embed cni.conflist
var cniConfig string

// DefaultCache is where everything that is downloaded or built once is kept.
func DefaultCache() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = "/root/.cache" // root without HOME, as under a CI runner
	}
	return filepath.Join(dir, "katadirect")
}

// programs is the folder with containerd, ctr and the runc shim.
func (f Flavour) programs(cache string) (string, error) {
	pattern := filepath.Join(cache, "containerd", "debian", "usr", "bin")
	if f == V2 {
		pattern = filepath.Join(cache, "containerd", "v2.*")
	}
	found, _ := filepath.Glob(filepath.Join(pattern, "containerd"))
	if len(found) == 0 {
		return "", fmt.Errorf("%w (looked for %s)", ErrNoContainerd, pattern)
	}
	newest := slices.MaxFunc(found, func(a, b string) int {
		return semver.Compare(filepath.Base(filepath.Dir(a)), filepath.Base(filepath.Dir(b)))
	})
	return filepath.Dir(newest), nil
}

// socket is where containerd listens.
func (l *Lab) socket() string { return filepath.Join(l.Dir, "containerd.sock") }

// StartContainerd starts containerd, for the first time or after it was stopped or killed, and returns when its
// runtime service is ready.
func (l *Lab) StartContainerd(ctx context.Context) error {
	programs, err := l.opts.Containerd.programs(l.opts.Cache)
	if err != nil {
		return err
	}
	config := filepath.Join(l.Dir, "containerd.toml")
	if l.ctrd == nil { // later it is as somebody may have changed it meanwhile
		if err := l.writeConfig(config); err != nil {
			return err
		}
	}
	l.ctrd, err = l.Start(Command{
		Name: "containerd",
		Path: filepath.Join(programs, "containerd"),
		Args: []string{"--config", config},
		Env:  []string{fmt.Sprintf("PATH=%s:%s:%s", l.opts.BinDir, programs, os.Getenv("PATH"))},
	})
	if err != nil {
		return err
	}
	if l.cri == nil {
		if l.cri, err = dialCRI(l.socket()); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return l.ctrd.waitFor(ctx, l.cri.ready)
}

// Containerd is the running containerd.
func (l *Lab) Containerd() *Process { return l.ctrd }

// writeConfig writes the settings of containerd, the handlers and the CNI.
func (l *Lab) writeConfig(path string) error {
	settings := configV1
	if l.opts.Containerd == V2 {
		settings = configV2
		if err := makeScratch(filepath.Join(l.Dir, "scratch.ext4")); err != nil {
			return err
		}
	}
	for _, h := range l.opts.Handlers {
		if err := os.WriteFile(filepath.Join(l.Dir, h.Name+".toml"), []byte(h.Config), 0o644); err != nil {
			return err
		}
	}
	return errors.Join(
		l.writeTemplate(path, settings),
		l.writeTemplate(filepath.Join(l.Dir, "registries", "_default", "hosts.toml"), registryHosts),
		l.writeTemplate(filepath.Join(l.Dir, "cni", "10-lab.conflist"), l.opts.Network))
}

// makeScratch makes the empty file system that containerd's blockfile snapshotter begins every image with.
func makeScratch(path string) error {
	const sizeBytes = 32 << 20
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, sizeBytes)); err != nil {
		return err
	}
	if out, err := exec.Command("mkfs.ext4", "-q", path).CombinedOutput(); err != nil {
		return fmt.Errorf("make a file system for containerd's blockfile snapshotter: %w: %s", err, out)
	}
	return nil
}

func (l *Lab) writeTemplate(path, text string) error {
	t, err := template.New(filepath.Base(path)).Parse(text)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	err = t.Execute(&out, map[string]any{
		"Dir": l.Dir, "Socket": l.socket(), "PauseImage": l.opts.SandboxImage, "Handlers": l.opts.Handlers,
		"DefaultHandler": l.opts.DefaultHandler, "Registry": l.opts.Registry,
	})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, out.Bytes(), 0o644)
}
