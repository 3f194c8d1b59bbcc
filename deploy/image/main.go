// Command image writes the image that deploy/ runs: "make image" calls it. It needs neither Docker nor a registry.
//
//	image --out DIR      DIR/katadirect.tar, as "docker save" writes it, and DIR/katadirect-oci, an OCI image layout
//	image --push         puts the image into the registry that its --name says, with docker login's credentials
//	image --tree DIR     the image's files, for deploy/image/Dockerfile
//	image --postgresql --out DIR    the image of deploy/examples/postgresql.yaml, DIR/postgresql.tar and so on
//
// What is in the images is internal/driverimage and internal/postgresimage.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/katadirect/katadirect/internal/driverimage"
	"github.com/katadirect/katadirect/internal/guestimage"
	"github.com/katadirect/katadirect/internal/postgresimage"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "image:", err)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	o := driverimage.Options{Progress: func(what string) { fmt.Println(what) }}
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	flags.StringVar(&o.BinDir, "bin", "bin", "folder of the programs")
	guest := flags.String("guest", "", "folder of the guest's kernel and initrd (default: where \"make guest\" puts them)")
	flags.StringVar(&o.Version, "version", "unknown", "version for the image's label")
	tag := flags.String("name", "", "name and tag in the archives (default: the one in deploy/)")
	push := flags.Bool("push", false, "put the image into its registry")
	postgresql := flags.Bool("postgresql", false, "make the example's image of PostgreSQL instead")
	out := flags.String("out", "", "folder for katadirect.tar and katadirect-oci")
	tree := flags.String("tree", "", "folder for the image's files")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || (*out == "" && !*push) == (*tree == "") {
		return errors.New("want --out, --push or --tree, and no arguments")
	}
	if *postgresql {
		image, err := postgresimage.Build(ctx, "", o.Progress)
		if err != nil {
			return err
		}
		return put(ctx, image, cmp.Or(*tag, postgresimage.Name), *push, *out, "postgresql.tar")
	}
	var err error
	if o.Guest, err = guestimage.Open(*guest); err != nil {
		return err
	}
	if *tree != "" {
		layers, err := driverimage.Layers(ctx, o)
		if err != nil {
			return err
		}
		return writeTree(*tree, layers)
	}
	image, err := driverimage.Build(ctx, o)
	if err != nil {
		return err
	}
	return put(ctx, image, cmp.Or(*tag, driverimage.Name+":"+driverimage.DefaultTag), *push, *out, "katadirect.tar")
}

// put pushes the image, or writes it into the folder out, both as an archive and as an OCI layout.
func put(ctx context.Context, image v1.Image, named string, push bool, out, archive string) error {
	tag, err := name.NewTag(named)
	if err != nil {
		return err
	}
	if push {
		if err := remote.Write(tag, image, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
			return fmt.Errorf("push %s: %w", tag, err)
		}
		digest, err := image.Digest()
		fmt.Printf("%s@%s\n", tag.Context(), digest)
		return err
	}
	return errors.Join(write(image, tag, filepath.Join(out, archive)), writeLayout(image, tag, filepath.Join(out, strings.TrimSuffix(archive, ".tar")+"-oci")))
}

// write writes an archive as "docker save" does, and says what it is.
func write(image v1.Image, tag name.Tag, archive string) error {
	if err := os.MkdirAll(filepath.Dir(archive), 0o755); err != nil {
		return err
	}
	// Nobody takes half an archive for a whole one.
	if err := errors.Join(tarball.WriteToFile(archive+".new", tag, image), os.Rename(archive+".new", archive)); err != nil {
		return err
	}
	digest, err := image.Digest()
	if err != nil {
		return err
	}
	info, err := os.Stat(archive)
	if err != nil {
		return err
	}
	fmt.Printf("%s  %s  %s  %d MiB\n", archive, tag, digest, info.Size()>>20)
	return nil
}

// writeLayout writes an OCI image layout.
func writeLayout(image v1.Image, tag name.Tag, dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	index, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	return index.AppendImage(image, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": tag.TagStr(), "io.containerd.image.name": tag.Name(),
	}))
}
