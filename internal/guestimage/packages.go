package guestimage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// packageCache keeps unpacked packages in dir, one folder per version. A
// folder there is complete: it is made aside and renamed.
type packageCache struct {
	dir      string
	catalog  catalog
	progress func(string)
}

// root is the folder of a package's files, there or not.
func (c *packageCache) root(p aptPackage) string { return filepath.Join(c.dir, p.file) }

// get returns the folder with the files of a package, downloading it if the
// cache lacks it. A package that apt cannot download is ErrNoPackage.
func (c *packageCache) get(ctx context.Context, name string) (string, error) {
	if err := c.fetch(ctx, name); err != nil {
		return "", err
	}
	return c.root(c.catalog[name]), nil
}

// fetch downloads and unpacks, in one go, those of the packages that the cache
// lacks.
func (c *packageCache) fetch(ctx context.Context, names ...string) error {
	var missing []aptPackage
	for _, name := range names {
		p, ok := c.catalog[name]
		if !ok {
			return fmt.Errorf("%w: %s", ErrNoPackage, name)
		}
		if _, err := os.Stat(c.root(p)); errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, p)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return fmt.Errorf("package cache: %w", err)
	}
	tmp, err := os.MkdirTemp(c.dir, ".new-")
	if err != nil {
		return fmt.Errorf("package cache: %w", err)
	}
	defer os.RemoveAll(tmp)
	return c.download(ctx, tmp, missing)
}

// download has apt put the packages into tmp, and unpacks each from there.
func (c *packageCache) download(ctx context.Context, tmp string, pkgs []aptPackage) error {
	start := time.Now()
	args := []string{"download", "-q=2"}
	var names []string
	for _, p := range pkgs {
		args = append(args, p.Name+"="+p.Version)
		names = append(names, p.Name)
	}
	c.progress("downloading " + strings.Join(names, ", "))
	if _, err := run(ctx, tmp, "apt-get", args...); err != nil {
		return fmt.Errorf("%w: %w", ErrNoPackage, err)
	}
	for _, p := range pkgs {
		if err := c.unpack(ctx, filepath.Join(tmp, p.file), p); err != nil {
			return fmt.Errorf("package %s %s: %w", p.Name, p.Version, err)
		}
	}
	c.progress(fmt.Sprintf("downloaded and unpacked in %.1f s", time.Since(start).Seconds()))
	return nil
}

// unpack turns base.deb into the cache's folder for p.
func (c *packageCache) unpack(ctx context.Context, base string, p aptPackage) error {
	if err := checkSHA256(base+".deb", p.sha256); err != nil {
		return err
	}
	if _, err := run(ctx, "", "dpkg-deb", "-x", base+".deb", base); err != nil {
		return err
	}
	return os.Rename(base, c.root(p))
}

func checkSHA256(file, want string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		return fmt.Errorf("%w: %s has SHA-256 %s, apt's index says %s", ErrNoPackage, filepath.Base(file), got, want)
	}
	return nil
}
