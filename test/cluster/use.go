package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
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

Pods with runtimeClassName kata run in a machine. docs/cluster.md says more. "make cluster-down" ends it.
`, i.PID, i.Dir, s.kubeconfig(), filepath.Clean(i.Programs))
	return nil
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
