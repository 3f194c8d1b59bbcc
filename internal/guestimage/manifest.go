package guestimage

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Manifest says what an image is made of. The guest finds it at
// /etc/katadirect/image.json, without the sizes.
type Manifest struct {
	// Version names the content: the kernel and every byte of the initrd.
	Version string `json:"version"`
	// Kernel is the kernel's release, as uname -r prints it in the guest.
	Kernel string `json:"kernel"`
	// Agent is the SHA-256 of /init, in hexadecimal.
	Agent string `json:"agent"`
	// Packages are the Debian packages that gave files, and their versions.
	Packages map[string]string `json:"packages"`
	// HostFiles are libraries that no package gave and the host did. Empty
	// in a build that depends on its packages alone.
	HostFiles []string `json:"host_files,omitempty"`
	// KernelBytes and InitrdBytes are the sizes of the files, by which Open
	// knows them to be whole.
	KernelBytes int64 `json:"kernel_bytes,omitempty"`
	InitrdBytes int64 `json:"initrd_bytes,omitempty"`
}

const (
	kernelFile   = "vmlinux"
	initrdFile   = "initrd"
	manifestFile = "image.json"
)

// Open returns the image in dir, or in DefaultDir if dir is empty. It is an
// error that wraps ErrNotBuilt if there is none, or not a whole one.
func Open(dir string) (Image, error) {
	if dir == "" {
		var err error
		if dir, err = DefaultDir(); err != nil {
			return Image{}, err
		}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Image{}, err
	}
	img := Image{Dir: dir, Kernel: filepath.Join(dir, kernelFile), Initrd: filepath.Join(dir, initrdFile)}
	data, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return Image{}, fmt.Errorf("%w in %s: run katadirect guest build", ErrNotBuilt, dir)
	}
	if err != nil {
		return Image{}, fmt.Errorf("guest image in %s: %w", dir, err)
	}
	if err := json.Unmarshal(data, &img.Manifest); err != nil {
		return Image{}, fmt.Errorf("%w in %s: %s: %w", ErrNotBuilt, dir, manifestFile, err)
	}
	for file, size := range map[string]int64{img.Kernel: img.Manifest.KernelBytes, img.Initrd: img.Manifest.InitrdBytes} {
		if fi, err := os.Stat(file); err != nil || fi.Size() != size || size == 0 {
			return Image{}, fmt.Errorf("%w in %s: %s is missing or cut off: run katadirect guest build", ErrNotBuilt, dir, filepath.Base(file))
		}
	}
	return img, nil
}

// write makes the output folder hold the collection. What is there and equal
// stays: a new agent costs one initrd, not one kernel.
func (c *collection) write(ctx context.Context, o Options) (Image, error) {
	old, err := Open(o.Output)
	if err == nil && old.Manifest.Version == c.manifest.Version {
		o.Progress("guest image is up to date")
		return old, nil
	}
	sameKernel := err == nil && old.Manifest.Kernel == c.manifest.Kernel &&
		old.Manifest.Packages[c.kernel.Name] == c.kernel.Version
	// Without the manifest it is no image, until everything is there again.
	if err := os.Remove(filepath.Join(o.Output, manifestFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Image{}, fmt.Errorf("write guest image: %w", err)
	}
	if !sameKernel {
		o.Progress("unpacking kernel " + c.manifest.Kernel)
		if err := c.writeKernel(filepath.Join(o.Output, kernelFile)); err != nil {
			return Image{}, err
		}
	}
	if err := ctx.Err(); err != nil {
		return Image{}, err
	}
	o.Progress("writing initrd")
	if err := writeFile(filepath.Join(o.Output, initrdFile), c.tree.writeCPIO); err != nil {
		return Image{}, err
	}
	if err := ctx.Err(); err != nil {
		return Image{}, err
	}
	if err := c.writeManifest(o.Output); err != nil {
		return Image{}, err
	}
	return Open(o.Output)
}

func (c *collection) writeKernel(file string) error {
	bzImage, err := os.ReadFile(c.vmlinuz)
	if err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	vmlinux, err := extractVmlinux(bzImage)
	if err != nil {
		return fmt.Errorf("%s of package %s %s: %w", filepath.Base(c.vmlinuz), c.kernel.Name, c.kernel.Version, err)
	}
	return writeFile(file, func(w io.Writer) error {
		_, err := w.Write(vmlinux)
		return err
	})
}

func (c *collection) writeManifest(dir string) error {
	m := c.manifest
	for file, size := range map[string]*int64{kernelFile: &m.KernelBytes, initrdFile: &m.InitrdBytes} {
		fi, err := os.Stat(filepath.Join(dir, file))
		if err != nil {
			return fmt.Errorf("write guest image: %w", err)
		}
		*size = fi.Size()
	}
	return writeFile(filepath.Join(dir, manifestFile), func(w io.Writer) error {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(m)
	})
}

// writeFile makes file whole or not at all, and durable before it appears
// under its name.
func writeFile(file string, fill func(io.Writer) error) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(file), ".new-")
	if err != nil {
		return fmt.Errorf("write guest image: %w", err)
	}
	defer func() {
		if err != nil {
			os.Remove(tmp.Name())
			err = fmt.Errorf("write guest image: %s: %w", filepath.Base(file), err)
		}
	}()
	defer tmp.Close()
	buf := bufio.NewWriterSize(tmp, 1<<20)
	if err := fill(buf); err != nil {
		return err
	}
	if err := buf.Flush(); err != nil {
		return err
	}
	if err := tmp.Chmod(0o644); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}

// lockDir takes the folder's lock, waiting for another build to end. The lock
// goes away with the process.
func lockDir(ctx context.Context, dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock of %s: %w", dir, err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock of %s: %w", dir, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("another build is using %s: %w", dir, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}
