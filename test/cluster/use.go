package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/katadirect/katadirect/internal/lab"
)

// status says how to use the running cluster.
func status(s *state) error {
	i, err := s.read()
	if err != nil {
		return err
	}
	fmt.Printf(`
A Kubernetes of one node runs (keeper %d). Its logs are in %s/log. Try:

  export KUBECONFIG=%s PATH=%s:$PATH
  kubectl get nodes,runtimeclasses,storageclasses
  kubectl apply -f docs/example.yaml     # a pod in a machine, with a volume
  kubectl exec example -- df -h /data
  kubectl patch pvc example -p '{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}'
  bin/cluster run katadirect volume list # what the node knows of its volumes

Pods with runtimeClassName kata run in a machine. docs/cluster.md says more. "make cluster-down" ends it.
`, i.PID, i.Dir, s.kubeconfig(), filepath.Clean(i.Programs))
	return nil
}

// runInside runs a command inside the cluster's namespaces: the files are the host's, save for /run and what the node
// keeps of its pods; processes and network are the cluster's.
func runInside(s *state, command []string) error {
	if len(command) == 0 {
		return errors.New("run COMMAND: for example, run katadirect volume list")
	}
	i, err := s.read()
	if err != nil {
		return err
	}
	binDir, err := programsDir()
	if err != nil {
		return err
	}
	path := strings.Join([]string{binDir, filepath.Clean(i.Programs), os.Getenv("PATH")}, string(filepath.ListSeparator))
	if err := os.Setenv("PATH", path); err != nil {
		return err
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if cmd.Dir, err = os.Getwd(); err != nil {
		return err
	}
	if err := lab.Enter(i.Init, cmd); err != nil {
		return err
	}
	return cmd.Wait()
}

// push puts the images of archives into the registry.
func push(ctx context.Context, s *state, archives []string) error {
	if len(archives) == 0 {
		return errors.New("push FILE: an archive as \"docker save\" writes it")
	}
	i, err := s.read()
	if err != nil {
		return err
	}
	for _, archive := range archives {
		if err := pushArchive(ctx, i.Registry, archive); err != nil {
			return fmt.Errorf("%s: %w", archive, err)
		}
	}
	return nil
}

func pushArchive(ctx context.Context, registry, archive string) error {
	manifest, err := tarball.LoadManifest(tarballOpener(archive))
	if err != nil {
		return err
	}
	for _, entry := range manifest {
		for _, named := range entry.RepoTags {
			tag, err := name.NewTag(named)
			if err != nil {
				return err
			}
			image, err := tarball.ImageFromPath(archive, &tag)
			if err != nil {
				return err
			}
			inside, err := name.NewTag(registry+"/"+tag.RepositoryStr()+":"+tag.TagStr(), name.Insecure)
			if err != nil {
				return err
			}
			if err := remote.Write(inside, image, remote.WithContext(ctx)); err != nil {
				return err
			}
			fmt.Println(named)
		}
	}
	return nil
}

func tarballOpener(path string) tarball.Opener {
	return func() (io.ReadCloser, error) { return os.Open(path) }
}

// programsDir is where this program is, with the others.
func programsDir() (string, error) {
	self, err := os.Executable()
	return filepath.Dir(self), err
}
