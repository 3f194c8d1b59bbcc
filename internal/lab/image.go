package lab

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Names of the images that a lab has. There is no registry: nothing is ever pulled.
const (
	// ShellImage is Debian's static busybox under all of its names.
	ShellImage = "katadirect.local/shell:1"
	// PauseImage is the same, doing nothing for ever.
	PauseImage = "katadirect.local/pause:1"
)

const busybox = "/bin/busybox"

// applets are the commands of ShellImage. A fixed list, so that the image does not depend on the host's busybox.
var applets = []string{
	"awk", "cat", "chmod", "chown", "cp", "cut", "date", "dd", "df", "echo", "env", "false", "find", "grep", "head",
	"hostname", "id", "ip", "kill", "ln", "ls", "md5sum", "mkdir", "mktemp", "mount", "mv", "nproc", "od", "ps", "pwd",
	"readlink", "rm", "rmdir", "sed", "seq", "sh", "sha256sum", "sleep", "sort", "stat", "sync", "tail", "test", "top",
	"touch", "tr", "true", "umount", "uname", "uniq", "wc", "which", "yes",
}

// importImages makes the images and gives them to containerd.
func (l *Lab) importImages(ctx context.Context) error {
	layer, err := shellLayer()
	if err != nil {
		return err
	}
	for image, entrypoint := range map[string][]string{
		ShellImage: {"/bin/sh"},
		PauseImage: {"/bin/sleep", "infinity"},
	} {
		if err := l.importImage(ctx, image, layer, entrypoint); err != nil {
			return fmt.Errorf("import %s: %w", image, err)
		}
	}
	return nil
}

func (l *Lab) importImage(ctx context.Context, image string, layer v1.Layer, entrypoint []string) error {
	built, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return err
	}
	config, err := built.ConfigFile()
	if err != nil {
		return err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	config.Config = v1.Config{Env: []string{"PATH=/bin"}, Entrypoint: entrypoint}
	if built, err = mutate.ConfigFile(built, config); err != nil {
		return err
	}
	tag, err := name.NewTag(image)
	if err != nil {
		return err
	}
	archive := filepath.Join(l.Dir, "image.tar")
	if err := tarball.WriteToFile(archive, tag, built); err != nil {
		return err
	}
	defer os.Remove(archive)
	programs, err := l.opts.Containerd.programs(l.opts.Cache)
	if err != nil {
		return err
	}
	_, err = l.Run(ctx, Command{
		Name: "ctr", Path: filepath.Join(programs, "ctr"),
		Args: []string{"--address", l.socket(), "--namespace", "k8s.io", "images", "import", archive},
	})
	if err != nil {
		return err
	}
	// The runtime service hears of it by an event.
	return l.ctrd.waitFor(ctx, func(ctx context.Context) error { return l.cri.hasImage(ctx, image) })
}

// shellLayer is a file system with busybox, its applets and the folders that programs expect.
func shellLayer() (v1.Layer, error) {
	program, err := os.ReadFile(busybox)
	if err != nil {
		return nil, fmt.Errorf("%w (Debian's package busybox-static has it)", err)
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	add := func(h tar.Header, content []byte) {
		if err == nil {
			h.Size = int64(len(content))
			err = w.WriteHeader(&h)
		}
		if err == nil {
			_, err = w.Write(content)
		}
	}
	for dir, mode := range map[string]int64{"bin": 0o755, "data": 0o755, "etc": 0o755, "root": 0o700, "tmp": 0o1777} {
		add(tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: mode}, nil)
	}
	add(tar.Header{Typeflag: tar.TypeReg, Name: busybox[1:], Mode: 0o755}, program)
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644}, []byte("root:x:0:0:root:/root:/bin/sh\n"))
	for _, applet := range applets {
		add(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: busybox}, nil)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(layer.Bytes())), nil
	})
}
