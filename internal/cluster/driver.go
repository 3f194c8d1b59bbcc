package cluster

import (
	"bytes"
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"text/template"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/katadirect/katadirect/deploy"
	"github.com/katadirect/katadirect/internal/cluster/images"
	"github.com/katadirect/katadirect/internal/driverimage"
)

// overlay is what differs here from what deploy/ installs.
//
//go:embed overlay
var overlay embed.FS

// createSnapshotKinds makes VolumeSnapshots known.
func (c *Cluster) createSnapshotKinds(ctx context.Context) error {
	crds := c.Program("crd")
	for _, args := range [][]string{
		{"apply", "-f", crds},
		{"wait", "--for=condition=Established", "-f", crds, "--timeout=" + readyTimeout.String()},
	} {
		if _, err := c.Kubectl(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// madeImages are what the driver runs from.
type madeImages struct {
	images map[string]v1.Image
	err    error
}

// makeImages makes the driver's image and the sidecars', which takes its time, while the control plane starts.
func (c *Cluster) makeImages(ctx context.Context) {
	c.made = make(chan madeImages, 1)
	c.serving.Go(func() {
		all, err := images.Sidecars(c.programs)
		if err == nil {
			all[driverimage.Name+":"+driverimage.DefaultTag], err = driverimage.Build(ctx, driverimage.Options{
				BinDir: c.opts.BinDir, Guest: c.opts.Guest, CacheDir: c.opts.Cache,
			})
		}
		c.made <- madeImages{all, err}
	})
}

// installDriver installs the driver as deploy/ does it on any cluster, from images in the registry, and returns when it
// has made itself known and said how much room it has.
func (c *Cluster) installDriver(ctx context.Context) error {
	if c.opts.WithoutDriver {
		return nil
	}
	made := <-c.made
	if made.err != nil {
		return made.err
	}
	for name, content := range made.images {
		if err := c.Push(ctx, name, content); err != nil {
			return err
		}
	}
	if err := errors.Join(c.writeManifests("kustomize", deploy.Kustomize), c.writeManifests("overlay", overlay)); err != nil {
		return err
	}
	if err := c.nodes[0].label(ctx); err != nil {
		return err
	}
	if err := c.ApplyDriver(ctx); err != nil {
		return err
	}
	return c.DriverReady(ctx)
}

// ApplyDriver makes everything of the driver's as it was installed.
func (c *Cluster) ApplyDriver(ctx context.Context) error {
	_, err := c.Kubectl(ctx, "apply", "-k", c.path("deploy", "overlay"))
	return err
}

// DriverReady returns when the driver and what it needs run on every node, and volumes can be made.
func (c *Cluster) DriverReady(ctx context.Context) error {
	patience := "--timeout=" + readyTimeout.String()
	waits := [][]string{
		{"rollout", "status", "daemonset/katadirect-node", patience},
		{"rollout", "status", "deployment/katadirect-controller", patience},
		{"rollout", "status", "deployment/katadirect-snapshot-controller", patience},
	}
	for _, n := range c.nodes {
		waits = append(waits, []string{"wait", "--for=jsonpath={.spec.drivers[0].name}=" + driverName, "csinode/" + n.name(), patience})
	}
	for _, args := range waits {
		if said, err := c.Kubectl(ctx, append(args, "-n", driverNamespace)...); err != nil {
			pods, _ := c.Kubectl(ctx, "describe", "pods", "-n", driverNamespace)
			return fmt.Errorf("wait for the driver: %w: %s\n%s\n%s", err, said, pods, c.Tails("csi-node"))
		}
	}
	return nil
}

const (
	driverName      = "csi.katadirect.io"
	driverNamespace = "katadirect"
)

// writeManifests writes a folder of manifests below Dir/deploy, with the cluster's settings filled in.
func (c *Cluster) writeManifests(name string, files embed.FS) error {
	return fs.WalkDir(files, name, func(file string, entry fs.DirEntry, err error) error {
		to := c.path("deploy", file)
		if err != nil || entry.IsDir() {
			return errors.Join(err, os.MkdirAll(to, 0o755))
		}
		text, err := files.ReadFile(file)
		if err != nil || name != "overlay" {
			return errors.Join(err, os.WriteFile(to, text, 0o644))
		}
		filled, err := template.New(file).Parse(string(text))
		if err != nil {
			return err
		}
		var out bytes.Buffer
		err = filled.Execute(&out, map[string]string{"DefaultHandler": cmp.Or(c.opts.DefaultHandler, RuncHandler)})
		return errors.Join(err, os.WriteFile(to, out.Bytes(), 0o644))
	})
}
