package nodeinstall

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

const (
	shimName     = "containerd-shim-katadirect-v2"
	toolName     = "katadirect"
	configName   = "configuration.toml"
	manifestName = "manifest.json"
	dropInsName  = "config.d" // pkg/runtime/config reads it beside the configuration
)

// file is one file of a version.
type file struct {
	Path   string `json:"path"` // in the version's folder
	Mode   string `json:"mode"`
	Size   int64  `json:"sizeBytes"`
	SHA256 string `json:"sha256"`

	source string // this program's path, "" where text is the content
	text   string
}

func (f file) mode() os.FileMode {
	if f.Mode == "0755" {
		return 0o755
	}
	return 0o644
}

// payload is a version, as this program can install it.
type payload struct {
	key   string
	files []file
}

// manifest is written last into a version's folder: where it is, the version is whole.
type manifest struct {
	Version string `json:"version"`
	Files   []file `json:"files"`
}

// gather reads what this program can install. The folder is named by the release and by what is in it: the same
// release built twice with a difference is two versions.
func (n *node) gather() (payload, error) {
	sources := []struct{ path, source, mode string }{
		{"bin/" + shimName, filepath.Join(n.BinDir, shimName), "0755"},
		{"bin/" + toolName, filepath.Join(n.BinDir, toolName), "0755"},
		{"guest/vmlinux", filepath.Join(n.GuestDir, "vmlinux"), "0644"},
		{"guest/initrd", filepath.Join(n.GuestDir, "initrd"), "0644"},
		{"guest/image.json", filepath.Join(n.GuestDir, "image.json"), "0644"},
	}
	var p payload
	whole := sha256.New()
	for _, s := range sources {
		in, err := os.Open(s.source)
		if err != nil {
			return p, fmt.Errorf("what is to be installed is not there: %w", err)
		}
		sum, size, err := digest(in)
		if err = errors.Join(err, in.Close()); err != nil {
			return p, fmt.Errorf("read %s: %w", s.source, err)
		}
		p.files = append(p.files, file{Path: s.path, Mode: s.mode, Size: size, SHA256: sum, source: s.source})
		fmt.Fprintln(whole, s.path, s.mode, sum)
	}
	fmt.Fprint(whole, n.configuration("FOLDER"))
	const enough = 12
	p.key = plain(n.Version) + "-" + hex.EncodeToString(whole.Sum(nil))[:enough]

	text := n.configuration(n.version(p.key))
	sum, size, _ := digest(strings.NewReader(text))
	p.files = append(p.files, file{Path: configName, Mode: "0644", Size: size, SHA256: sum, text: text})
	return p, nil
}

// plain makes a release's name fit for a folder and a runtime's configuration.
func plain(version string) string {
	return strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("._+-", c) {
			return c
		}
		return '-'
	}, version)
}

func digest(from io.Reader) (sum string, sizeBytes int64, err error) {
	h := sha256.New()
	sizeBytes, err = io.Copy(h, from)
	return hex.EncodeToString(h.Sum(nil)), sizeBytes, err
}

// configuration is Kata's configuration.toml of a version in a folder.
func (n *node) configuration(folder string) string {
	return fmt.Sprintf(`# Made by "katadirect node install", and made anew by the next one. Settings of your own belong into files
# %s/*.toml on the node, which are read over this one.
[hypervisor.qemu]
path = %q
kernel = %q
initrd = %q
virtio_fs_daemon = %q
`, n.SettingsDir, n.QEMU, path.Join(folder, "guest/vmlinux"), path.Join(folder, "guest/initrd"), n.Virtiofsd)
}

// planVersion lists what the version's folder lacks. A file that is there and right is left alone, so a version that
// pods run with is only ever mended.
func (n *node) planVersion(p payload) ([]Change, error) {
	folder := n.version(p.key)
	var changes []Change
	for _, f := range p.files {
		place := path.Join(folder, f.Path)
		right, there, err := n.isRight(place, f)
		if err != nil {
			return nil, err
		}
		if right {
			continue
		}
		action := "create"
		if there {
			action = "replace"
		}
		changes = append(changes, Change{Action: action, Path: place, Detail: fmt.Sprintf("%d bytes, mode %s", f.Size, f.Mode),
			do: func(context.Context) error { return n.put(place, f) }})
	}
	dropIns := path.Join(folder, dropInsName)
	if target, err := n.root.Readlink(dropIns); err != nil || target != n.SettingsDir {
		changes = append(changes, Change{Action: "link", Path: dropIns, Detail: "to " + n.SettingsDir,
			do: func(context.Context) error { return n.link(n.SettingsDir, dropIns) }})
	}
	text, err := json.MarshalIndent(manifest{Version: n.Version, Files: p.files}, "", "  ")
	if err != nil {
		return nil, err
	}
	place := path.Join(folder, manifestName)
	if old, _, err := n.root.ReadFile(place); err != nil || string(old) != string(text) {
		changes = append(changes, Change{Action: "create", Path: place,
			do: func(context.Context) error { return n.root.WriteFile(place, text, 0o644) }})
	}
	return changes, nil
}

// isRight compares a file of the host with what it should be.
func (n *node) isRight(place string, f file) (right, there bool, err error) {
	in, err := n.root.OpenFile(place)
	if errors.Is(err, fs.ErrNotExist) {
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil || info.Size() != f.Size || info.Mode().Perm() != f.mode() {
		return false, true, err
	}
	sum, _, err := digest(in)
	return sum == f.SHA256, true, err
}

func (n *node) put(place string, f file) error {
	if err := n.root.MkdirAll(path.Dir(place), 0o755); err != nil {
		return err
	}
	if f.source == "" {
		return n.root.WriteFile(place, []byte(f.text), f.mode())
	}
	in, err := os.Open(f.source)
	if err != nil {
		return err
	}
	defer in.Close()
	return n.root.Copy(place, in, f.mode())
}

func (n *node) link(target, place string) error {
	if err := n.root.MkdirAll(path.Dir(place), 0o755); err != nil {
		return err
	}
	return n.root.Symlink(target, place)
}
