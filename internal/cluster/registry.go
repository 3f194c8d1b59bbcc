package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// privateRepository is what Kubernetes' suite expects to be refused without a secret. There is none that opens it.
const privateRepository = "/v2/authenticated-image-pulling/"

// serveImages starts the registry in the cluster's network and puts the images into it. It stands in for every
// registry in the world: names are looked up without their host. So nothing has to be imported by hand, and pull
// policies, missing images and refused ones are real.
func (c *Cluster) serveImages(ctx context.Context) error {
	if err := os.Mkdir(c.path("images"), 0o755); err != nil {
		return err
	}
	listener, err := c.lab.Listen(ctx, "tcp", registryAddr)
	if err != nil {
		return fmt.Errorf("start the registry: %w", err)
	}
	c.registry = listener
	store := registry.New(registry.WithBlobHandler(registry.NewDiskBlobHandler(c.path("images"))),
		registry.Logger(log.New(io.Discard, "", 0)))
	c.serving.Go(func() {
		_ = http.Serve(listener, refusePrivate(store))
	})
	c.outside, err = (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	c.serving.Go(func() {
		_ = http.Serve(c.outside, store)
	})
	for image, content := range c.opts.Images {
		if err := c.Push(ctx, image, content); err != nil {
			return err
		}
	}
	return nil
}

// Registry is the address at which people outside of the cluster's network can push images.
func (c *Cluster) Registry() string { return c.outside.Addr().String() }

// refusePrivate asks for a password where none is right.
func refusePrivate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, privateRepository) {
			w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
			http.Error(w, "authentication required", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Push puts an image into the registry. Pods may name it as it was named here.
func (c *Cluster) Push(ctx context.Context, image string, content v1.Image) error {
	ref, err := name.ParseReference(image)
	if err != nil {
		return err
	}
	inside, err := name.NewTag(c.Registry()+"/"+ref.Context().RepositoryStr()+":"+ref.Identifier(), name.Insecure)
	if err != nil {
		return err
	}
	if err := remote.Write(inside, content, remote.WithContext(ctx)); err != nil {
		return fmt.Errorf("put %s into the registry: %w", image, errors.Join(err, ctx.Err()))
	}
	return nil
}
