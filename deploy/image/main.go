// Command image writes the image that deploy/ runs: "make image" calls it. It needs neither Docker nor a registry.
//
//	image --out DIR      DIR/katadirect.tar, as "docker save" writes it, and DIR/oci, an OCI image layout
//	image --tree DIR     the image's files, for deploy/image/Dockerfile
//	image --postgresql --out DIR    the image of deploy/examples/postgresql.yaml, DIR/postgresql.tar
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
	"syscall"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
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
	postgresql := flags.Bool("postgresql", false, "make the example's image of PostgreSQL instead")
	out := flags.String("out", "", "folder for katadirect.tar and oci")
	tree := flags.String("tree", "", "folder for the image's files")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || (*out == "") == (*tree == "") || *postgresql && *out == "" {
		return errors.New("want either --out or --tree, and no arguments")
	}
	if *postgresql {
		image, err := postgresimage.Build(ctx, "", o.Progress)
		if err != nil {
			return err
		}
		return write(image, cmp.Or(*tag, postgresimage.Name), filepath.Join(*out, "postgresql.tar"))
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
	named := cmp.Or(*tag, driverimage.Name+":"+driverimage.DefaultTag)
	return errors.Join(write(image, named, filepath.Join(*out, "katadirect.tar")), writeLayout(image, named, filepath.Join(*out, "oci")))
}

// write writes an archive as "docker save" does, and says what it is.
func write(image v1.Image, named, archive string) error {
	tag, err := name.NewTag(named)
	if err != nil {
		return err
	}
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
func writeLayout(image v1.Image, named, dir string) error {
	tag, err := name.NewTag(named)
	if err != nil {
		return err
	}
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
