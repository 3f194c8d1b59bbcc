package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/katadirect/katadirect/internal/image"
)

// Names of the images that a lab has. There is no registry: nothing is ever pulled.
const (
	// ShellImage is Debian's static busybox under all of its names.
	ShellImage = "katadirect.local/shell:1"
	// PauseImage is the same, doing what Kubernetes' pause image does, under its name.
	PauseImage = "katadirect.local/pause:1"
)

const busybox = "/bin/busybox"

// pauseScript waits for ever, ends in order when it is told to, and takes in the orphans of its pid namespace.
const pauseScript = `#!/bin/sh
trap 'exit 0' TERM INT
while :; do sleep 1000000 & wait; done
`

// applets are the commands of ShellImage. A fixed list, so that the image does not depend on the host's busybox.
var applets = []string{
	"awk", "cat", "chmod", "chown", "cp", "cut", "date", "dd", "df", "echo", "env", "false", "find", "grep", "head",
	"hostname", "id", "inotifyd", "ip", "ipcs", "kill", "ln", "ls", "md5sum", "mkdir", "mkfifo", "mknod", "mktemp", "mount", "mv",
	"nc", "nproc", "nslookup", "od", "ps", "pwd",
	"readlink", "rm", "rmdir", "sed", "seq", "sh", "sha256sum", "sleep", "sort", "stat", "sync", "sysctl", "tail", "test", "top",
	"touch", "tr", "true", "umount", "uname", "uniq", "wc", "wget", "which", "yes",
}

// importImages makes the images and gives them to containerd.
func (l *Lab) importImages(ctx context.Context) error {
	layer, err := shellLayer()
	if err != nil {
		return err
	}
	for named, entrypoint := range map[string][]string{
		ShellImage: {"/bin/sh"},
		PauseImage: {"/pause"},
	} {
		if err := l.importImage(ctx, named, layer, entrypoint); err != nil {
			return fmt.Errorf("import %s: %w", named, err)
		}
	}
	return nil
}

func (l *Lab) importImage(ctx context.Context, named string, layer v1.Layer, entrypoint []string) error {
	built, err := image.New(v1.Config{Env: []string{"PATH=/bin"}, Entrypoint: entrypoint}, layer)
	if err != nil {
		return err
	}
	tag, err := name.NewTag(named)
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
	return l.ctrd.waitFor(ctx, func(ctx context.Context) error { return l.cri.hasImage(ctx, named) })
}

// shellLayer is a file system with busybox, its applets and the folders that programs expect.
func shellLayer() (v1.Layer, error) {
	program, err := os.ReadFile(busybox)
	if err != nil {
		return nil, fmt.Errorf("%w (Debian's package busybox-static has it)", err)
	}
	files := image.Files{
		"data": image.Dir(0o755), "root": image.Dir(0o700), "tmp": image.Dir(0o1777),
		busybox[1:]:  image.Program(program),
		"pause":      image.Program([]byte(pauseScript)),
		"etc/passwd": image.Text("root:x:0:0:root:/root:/bin/sh\n"),
	}
	for _, applet := range applets {
		files["bin/"+applet] = image.Link(busybox)
	}
	return image.Layer(files)
}
