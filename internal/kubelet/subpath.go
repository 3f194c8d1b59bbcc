package kubelet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/katadirect/katadirect/internal/lab"
)

// subPathsDir is where kubelet mounts what the containers of a pod want of the volume.
func (v *Volume) subPathsDir(podUID string) string {
	return filepath.Join(v.node.root(), "pods", podUID, "volume-subpaths", v.Name)
}

// SubPath prepares a subPath for a mount of a container, and returns what kubelet gives the runtime as the mount's host
// path: a bind mount of the part, which it has made in the volume's folder on the host if it was missing. The folder
// on the host has nothing to do with the volume in the guest; kubelet does not know that.
func (v *Volume) SubPath(ctx context.Context, podUID, container string, index int, subPath string) (string, error) {
	part := filepath.Join(v.TargetPath(podUID), subPath)
	at := filepath.Join(v.subPathsDir(podUID), container, strconv.Itoa(index))
	if err := errors.Join(os.MkdirAll(part, 0o750), os.MkdirAll(at, 0o750)); err != nil {
		return "", err
	}
	_, err := v.node.Lab.Run(ctx, lab.Command{Name: "mount", Path: "/bin/mount", Args: []string{"--bind", part, at}})
	if err != nil {
		return "", fmt.Errorf("prepare subPath %s: %w", subPath, err)
	}
	return at, nil
}

// cleanSubPaths takes away what SubPath has mounted, as kubelet does before it unpublishes the volume.
func (v *Volume) cleanSubPaths(ctx context.Context, podUID string) error {
	mounts, err := filepath.Glob(filepath.Join(v.subPathsDir(podUID), "*", "*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, at := range mounts {
		_, err := v.node.Lab.Run(ctx, lab.Command{Name: "umount", Path: "/bin/umount", Args: []string{at}})
		if err == nil {
			err = os.Remove(at)
		}
		errs = append(errs, err)
		_ = os.Remove(filepath.Dir(at)) // it may hold others
	}
	_ = os.Remove(v.subPathsDir(podUID))
	_ = os.Remove(filepath.Dir(v.subPathsDir(podUID)))
	return errors.Join(errs...)
}
