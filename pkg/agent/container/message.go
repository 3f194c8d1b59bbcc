package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

// maxMessage is more than kubelet shows of a message, in bytes.
const maxMessage = 16 << 10

func messagePath(spec *specs.Spec) string {
	if p := spec.Annotations[agentproto.AnnotationMessagePath]; path.IsAbs(p) {
		return path.Clean(p)
	}
	return agentproto.DefaultMessagePath
}

// TerminationMessage returns the last words that the container has left, ""
// if there are none. A shim asks for them when the host does not share the
// file.
func (c *Container) TerminationMessage() (string, error) {
	f, err := c.openMessage()
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("termination message of container %s: %w", c.ID, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%w: %s is not a file", ErrSpec, c.message)
	}
	if err != nil {
		return "", fmt.Errorf("termination message of container %s: %w", c.ID, err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxMessage))
	if err != nil {
		return "", fmt.Errorf("termination message of container %s: %w", c.ID, err)
	}
	return strings.ToValidUTF8(string(data), "\uFFFD"), nil
}

// openMessage finds the file behind the container's path: a mount's source or
// something below it, or a file of the root file system. The container may
// have put links in the way; they must not lead out of there.
func (c *Container) openMessage() (*os.File, error) {
	data, err := os.ReadFile(filepath.Join(c.runtime.bundle(c.ID), "config.json"))
	if err != nil {
		return nil, err
	}
	var spec specs.Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		return nil, err
	}
	dir, below, mounted := spec.Root.Path, c.message, ""
	for _, m := range spec.Mounts {
		rest, ok := within(m.Destination, c.message)
		if !ok || len(m.Destination) < len(mounted) {
			continue
		}
		mounted = m.Destination
		switch {
		case !isBind(m):
			dir = "" // its content is gone with the container's mounts
		case rest == "":
			dir, below = path.Dir(m.Source), path.Base(m.Source)
		default:
			dir, below = m.Source, rest
		}
	}
	if dir == "" {
		return nil, fs.ErrNotExist
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return root.OpenFile(strings.TrimPrefix(below, "/"), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
}

// within returns where below dir the path p is.
func within(dir, p string) (rest string, ok bool) {
	if dir == p {
		return "", true
	}
	return strings.CutPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}
