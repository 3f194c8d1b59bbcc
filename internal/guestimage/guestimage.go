// Package guestimage makes what a guest boots from: an uncompressed kernel and
// an initrd with the agent, the kernel's modules, crun and the file system
// tools.
//
// It owns where those files come from (packages of the Debian release the
// host runs, downloaded and unpacked, never installed), how they are laid out
// in the guest, and the manifest that says what is inside. It is called by
// `katadirect guest build` and by tests and benchmarks that boot machines. It
// needs no root, and the same packages and agent give the same bytes.
//
// Starting machines does not belong here, and neither does anything that runs
// inside the guest.
package guestimage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// DefaultKernelPackage is the Debian package whose kernel the guest boots. It
// is a meta package: the package it depends on holds the kernel.
const DefaultKernelPackage = "linux-image-cloud-amd64"

// Options says what goes into an image. The zero value of every field but
// AgentPath is usable.
type Options struct {
	// Output is the folder that receives vmlinux, initrd and image.json.
	// Empty: DefaultDir.
	Output string
	// AgentPath is the statically linked program that becomes /init.
	AgentPath string
	// KernelPackage is the Debian package of the guest's kernel, either one
	// that holds a kernel or one that depends on one. Empty:
	// DefaultKernelPackage.
	KernelPackage string
	// CacheDir keeps unpacked packages between builds. Empty:
	// $XDG_CACHE_HOME/katadirect, or ~/.cache/katadirect.
	CacheDir string
	// Debug adds a static busybox at /bin/busybox, and /bin/sh.
	Debug bool
	// Btrfs adds btrfs, for a person who looks into a machine. What volumes
	// need, the modules and mkfs.btrfs, is always there.
	Btrfs bool
	// Bare leaves out all but /init and the modules of the group "boot".
	// Benchmarks boot it as the floor.
	Bare bool
	// Progress receives one line for each step that takes time. May be nil.
	Progress func(string)
}

// Image is a built image.
type Image struct {
	Dir      string   // folder that holds the files below
	Kernel   string   // absolute path of the ELF kernel (vmlinux)
	Initrd   string   // absolute path of the initrd
	Manifest Manifest // what is inside
}

var (
	// ErrNotBuilt is returned by Open for a folder without a complete image.
	ErrNotBuilt = errors.New("guest image is not built")
	// ErrAgent is returned by Build for an agent that cannot be /init: it is
	// missing, is no program for x86-64, or needs libraries.
	ErrAgent = errors.New("agent cannot be the guest's init")
	// ErrNoPackage is returned by Build when a Debian package cannot be had.
	ErrNoPackage = errors.New("package cannot be had")
)

// DefaultCacheDir is where packages are kept between builds:
// $XDG_CACHE_HOME/katadirect, or .cache/katadirect under the home folder.
func DefaultCacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no folder for the package cache, set XDG_CACHE_HOME or HOME: %w", err)
	}
	return filepath.Join(base, "katadirect"), nil
}

// DefaultDir is where images are built when no output folder is named: guest/
// in DefaultCacheDir.
func DefaultDir() (string, error) {
	cache, err := DefaultCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "guest"), nil
}

// withDefaults fills the empty fields and makes the paths absolute.
func (o Options) withDefaults() (Options, error) {
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if o.KernelPackage == "" {
		o.KernelPackage = DefaultKernelPackage
	}
	var err error
	if o.CacheDir == "" {
		if o.CacheDir, err = DefaultCacheDir(); err != nil {
			return o, err
		}
	}
	if o.Output == "" {
		if o.Output, err = DefaultDir(); err != nil {
			return o, err
		}
	}
	if o.CacheDir, err = filepath.Abs(o.CacheDir); err != nil {
		return o, err
	}
	o.Output, err = filepath.Abs(o.Output)
	return o, err
}

// Build makes the image that o describes, or leaves the one that is already
// there if it would be the same to the byte. Two builds into one folder, or
// with one cache, wait for each other. An interrupted build leaves the folder
// without image.json, so Open does not take it for an image.
func Build(ctx context.Context, o Options) (Image, error) {
	o, err := o.withDefaults()
	if err != nil {
		return Image{}, err
	}
	if err := checkAgent(o.AgentPath); err != nil {
		return Image{}, err
	}
	for _, dir := range []string{o.CacheDir, o.Output} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return Image{}, fmt.Errorf("folder of the guest image: %w", err)
		}
		unlock, err := lockDir(ctx, dir)
		if err != nil {
			return Image{}, err
		}
		defer unlock()
		if o.Output == o.CacheDir {
			break // one lock, or it would wait for itself
		}
	}
	c, err := collect(ctx, o)
	if err != nil {
		return Image{}, err
	}
	return c.write(ctx, o)
}
