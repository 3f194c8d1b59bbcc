// Package driverimage makes the one image that deploy/ runs everywhere: the driver, the node's programs and what guests
// boot, and Debian's tools for file systems. No Docker and no registry is needed, and the same programs, guest and
// packages give the same image, to the byte.
//
//	/usr/local/bin/csi-node                       the entry point
//	/usr/local/bin/katadirect                     for a person, by kubectl exec
//	/usr/local/bin/containerd-shim-katadirect-v2  \
//	/usr/libexec/katadirect/agent                  > what the node installer puts on the node
//	/usr/share/katadirect/guest/                  /
//	/etc/katadirect/packages.json                 Debian's packages, and their versions
//
// deploy/image is the program; tests that want the image in a cluster call Build. What runs it is deploy's.
package driverimage

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/katadirect/katadirect/internal/guestimage"
	"github.com/katadirect/katadirect/internal/image"
	"github.com/katadirect/katadirect/pkg/runtime/config"
)

// Name is the image's name in deploy/, without a tag.
const Name = "registry.example.org/katadirect/katadirect"

// DefaultTag is the tag in deploy/, for images that are built and not released.
const DefaultTag = "dev"

// Options say what goes into the image.
type Options struct {
	// BinDir holds the programs, as "make build" makes them.
	BinDir string
	// Guest is what machines boot; its zero value leaves it out.
	Guest guestimage.Image
	// Version is kept in the image's labels.
	Version string
	// CacheDir keeps Debian's packages; "" is guestimage.DefaultCacheDir.
	CacheDir string
	// Progress hears of what takes time. May be nil.
	Progress func(string)
}

// programs are the names in BinDir, and where they are in the image.
var programs = map[string]string{
	"csi-node":                      "usr/local/bin/csi-node",
	"katadirect":                    "usr/local/bin/katadirect",
	"containerd-shim-katadirect-v2": "usr/local/bin/containerd-shim-katadirect-v2",
	"agent":                         "usr/libexec/katadirect/agent",
}

// guestDir is where the node installer, which runs from the image, looks for the guest.
var guestDir = strings.TrimPrefix(config.GuestDir, "/") + "/"

// tools are what the driver runs where the host mounts or formats (modes auto and host), under the names by which it
// calls them, and what a person wants who looks at a volume from inside.
var tools = []guestimage.Take{
	{Package: "mount", Files: []string{"/bin/mount", "/bin/umount"}},
	{Package: "util-linux", Files: []string{"/sbin/blkid", "/sbin/fsck"}},
	{
		Package: "e2fsprogs",
		Files:   []string{"/sbin/mke2fs", "/sbin/e2fsck", "/sbin/resize2fs", "/sbin/tune2fs", "/sbin/dumpe2fs", "/etc/mke2fs.conf"},
		Links: map[string]string{
			"/sbin/mkfs.ext3": "mke2fs", "/sbin/mkfs.ext4": "mke2fs", "/sbin/fsck.ext3": "e2fsck", "/sbin/fsck.ext4": "e2fsck",
		},
	},
	{Package: "xfsprogs", Files: []string{"/sbin/mkfs.xfs", "/sbin/xfs_repair", "/usr/sbin/xfs_growfs", "/usr/sbin/xfs_db"}},
	{Package: "btrfs-progs", Files: []string{"/sbin/mkfs.btrfs", "/bin/btrfs", "/bin/btrfstune"}},
	// The C library loads it by name when a thread is cancelled.
	{Package: "libgcc-s1", Files: []string{"/lib/x86_64-linux-gnu/libgcc_s.so.1"}},
}

// Config is what a container of the image runs by default. The Dockerfile says the same.
func Config(version string) v1.Config {
	return v1.Config{
		Entrypoint: []string{"/usr/local/bin/csi-node"},
		Env:        []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Labels: map[string]string{
			"org.opencontainers.image.title":    "katadirect",
			"org.opencontainers.image.licenses": "Apache-2.0",
			"org.opencontainers.image.source":   "https://github.com/katadirect/katadirect",
			"org.opencontainers.image.version":  version,
		},
	}
}

// Build makes the image, in three layers: what changes least comes first.
func Build(ctx context.Context, o Options) (v1.Image, error) {
	contents, err := Layers(ctx, o)
	if err != nil {
		return nil, err
	}
	var layers []v1.Layer
	for _, files := range contents {
		layer, err := image.Layer(files)
		if err != nil {
			return nil, err
		}
		layers = append(layers, layer)
	}
	return image.New(Config(o.Version), layers...)
}

// Layers are the image's files, layer by layer. No file is in two.
func Layers(ctx context.Context, o Options) ([]image.Files, error) {
	debian, err := debianFiles(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("the image's tools: %w", err)
	}
	layers := []image.Files{debian}
	if o.Guest.Dir != "" {
		guest, err := read(map[string]string{
			o.Guest.Kernel: guestDir + "vmlinux", o.Guest.Initrd: guestDir + "initrd",
			filepath.Join(o.Guest.Dir, "image.json"): guestDir + "image.json",
		}, image.Text)
		if err != nil {
			return nil, fmt.Errorf("the image's guest: %w", err)
		}
		layers = append(layers, guest)
	}
	from := map[string]string{}
	for name, to := range programs {
		from[filepath.Join(o.BinDir, name)] = to
	}
	own, err := read(from, func(content string) image.File { return image.Program([]byte(content)) })
	if err != nil {
		return nil, fmt.Errorf("the image's programs (make build): %w", err)
	}
	return append(layers, own), nil
}

func read(from map[string]string, as func(string) image.File) (image.Files, error) {
	files := image.Files{}
	for path, to := range from {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		files[to] = as(string(content))
	}
	return files, nil
}

// debianFiles are the tools with their libraries, and what every container has.
func debianFiles(ctx context.Context, o Options) (image.Files, error) {
	found, packages, err := guestimage.RootFS(ctx, o.CacheDir, o.Progress, tools...)
	if err != nil {
		return nil, err
	}
	files := FromRootFS(found)
	delete(files, "newroot") // a guest's
	said, err := json.MarshalIndent(packages, "", "  ")
	if err != nil {
		return nil, err
	}
	maps.Copy(files, image.Files{
		"etc/passwd":                   image.Text("root:x:0:0:root:/root:/usr/sbin/nologin\n"),
		"etc/group":                    image.Text("root:x:0:\n"),
		"etc/katadirect/packages.json": image.Text(string(said) + "\n"),
	})
	return files, nil
}

// FromRootFS are the same files as an image has them.
func FromRootFS(found map[string]guestimage.File) image.Files {
	files := image.Files{}
	for path, f := range found {
		switch {
		case f.Link != "":
			files[path] = image.Link(f.Link)
		case f.Dir:
			mode := int64(f.Perm.Perm())
			if f.Perm&os.ModeSticky != 0 {
				mode |= 0o1000
			}
			files[path] = image.Dir(mode)
		default:
			files[path] = image.File{Mode: int64(f.Perm.Perm()), Content: f.Data}
		}
	}
	return files
}
