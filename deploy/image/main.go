// Command image writes the image that deploy/ runs: "make image" calls it. It needs neither Docker nor a registry.
//
//	image --out DIR      DIR/katadirect.tar, as "docker save" writes it, and DIR/oci, an OCI image layout
//	image --tree DIR     the image's files, for deploy/image/Dockerfile
//
// What is in the image is internal/driverimage.
package main

import (
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
	tag := flags.String("name", driverimage.Name+":"+driverimage.DefaultTag, "name and tag in the archives")
	out := flags.String("out", "", "folder for katadirect.tar and oci")
	tree := flags.String("tree", "", "folder for the image's files")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || (*out == "") == (*tree == "") {
		return errors.New("want either --out or --tree, and no arguments")
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
	return write(image, *tag, *out)
}

// write writes both archives and says what they are.
func write(image v1.Image, named, out string) error {
	tag, err := name.NewTag(named)
	if err != nil {
		return err
	}
	archive, oci := filepath.Join(out, "katadirect.tar"), filepath.Join(out, "oci")
	if err := errors.Join(os.MkdirAll(out, 0o755), os.RemoveAll(oci)); err != nil {
		return err
	}
	// Nobody takes half an archive for a whole one.
	if err := errors.Join(tarball.WriteToFile(archive+".new", tag, image), os.Rename(archive+".new", archive)); err != nil {
		return err
	}
	index, err := layout.Write(oci, empty.Index)
	if err != nil {
		return err
	}
	if err := index.AppendImage(image, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": tag.TagStr(), "io.containerd.image.name": tag.Name(),
	})); err != nil {
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
	fmt.Printf("%s  %s  %d MiB\n%s\n%s\n", tag, digest, info.Size()>>20, archive, oci)
	return nil
}
