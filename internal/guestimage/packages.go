package guestimage

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// aptPackage is one version of a Debian package, as apt would download it.
type aptPackage struct {
	Name, Version string
	file          string // NAME_VERSION_ARCH, as apt names the file, without .deb
	sha256        string
}

// unpacked is a package in the cache.
type unpacked struct {
	aptPackage
	root    string   // folder with the package's files
	depends []string // names of the packages it depends on; of alternatives, the first
}

// packageCache keeps unpacked packages under dir, one folder per version. A
// folder there is complete: it is made aside and renamed.
type packageCache struct {
	dir      string
	progress func(string)
}

// resolve asks apt which version of each package it would download. The
// answer's order is apt's own.
func resolve(ctx context.Context, names []string) ([]aptPackage, error) {
	out, err := run(ctx, "", "apt-get", append([]string{"download", "--print-uris"}, names...)...)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w (does apt know them? try: apt-get update)", ErrNoPackage, strings.Join(names, ", "), err)
	}
	pkgs, err := parseURIs(out)
	if err == nil && len(pkgs) != len(names) {
		err = fmt.Errorf("apt knows %d of %d", len(pkgs), len(names))
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrNoPackage, strings.Join(names, ", "), err)
	}
	return pkgs, nil
}

// uriLine is what apt-get prints for one file: 'URI' FILE SIZE HASH.
var uriLine = regexp.MustCompile(`^'[^']*' ([a-z0-9][a-z0-9+.-]*)_([^_/ ]+)_([a-z0-9-]+)\.deb \d+ (\S+)$`)

// parseURIs reads the output of apt-get --print-uris. A package without a
// SHA-256 in apt's signed index is refused.
func parseURIs(out []byte) ([]aptPackage, error) {
	var pkgs []aptPackage
	for sc := bufio.NewScanner(bytes.NewReader(out)); sc.Scan(); {
		if !strings.HasPrefix(sc.Text(), "'") {
			continue // a notice
		}
		m := uriLine.FindStringSubmatch(sc.Text())
		if m == nil {
			return nil, fmt.Errorf("apt's answer not understood: %q", sc.Text())
		}
		version, err := url.PathUnescape(m[2]) // the colon of an epoch is %3a
		if err != nil {
			return nil, fmt.Errorf("apt's answer not understood: %q", sc.Text())
		}
		sum, ok := strings.CutPrefix(m[4], "SHA256:")
		if !ok {
			return nil, fmt.Errorf("apt has no SHA-256 for %s", m[1])
		}
		pkgs = append(pkgs, aptPackage{Name: m[1], Version: version, file: m[1] + "_" + m[2] + "_" + m[3], sha256: sum})
	}
	return pkgs, nil
}

// fetch returns the packages named, unpacked, downloading those that the
// cache lacks.
func (c *packageCache) fetch(ctx context.Context, names ...string) ([]unpacked, error) {
	pkgs, err := resolve(ctx, names)
	if err != nil {
		return nil, err
	}
	var missing []aptPackage
	for _, p := range pkgs {
		if _, err := c.open(p); errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, p)
		}
	}
	if len(missing) > 0 {
		if err := c.add(ctx, missing); err != nil {
			return nil, err
		}
	}
	var all []unpacked
	for _, p := range pkgs {
		u, err := c.open(p)
		if err != nil {
			return nil, fmt.Errorf("package %s %s: %w", p.Name, p.Version, err)
		}
		all = append(all, u)
	}
	return all, nil
}

// open returns a package that is in the cache already.
func (c *packageCache) open(p aptPackage) (unpacked, error) {
	dir := filepath.Join(c.dir, "packages", p.file)
	control, err := os.ReadFile(filepath.Join(dir, "control"))
	if err != nil {
		return unpacked{}, err
	}
	return unpacked{aptPackage: p, root: filepath.Join(dir, "root"), depends: parseDepends(string(control))}, nil
}

// add downloads packages in one go, and checks and unpacks each.
func (c *packageCache) add(ctx context.Context, pkgs []aptPackage) error {
	parent := filepath.Join(c.dir, "packages")
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(parent, ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	start := time.Now()
	var versions, names []string
	for _, p := range pkgs {
		versions = append(versions, p.Name+"="+p.Version)
		names = append(names, p.Name)
	}
	c.progress("downloading " + strings.Join(names, ", "))
	if _, err := run(ctx, tmp, "apt-get", append([]string{"download", "-q=2"}, versions...)...); err != nil {
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
	deb := base + ".deb"
	if err := checkSHA256(deb, p.sha256); err != nil {
		return err
	}
	control, err := run(ctx, "", "dpkg-deb", "-f", deb)
	if err != nil {
		return err
	}
	if err := os.Mkdir(base, 0o755); err != nil {
		return err
	}
	if _, err := run(ctx, "", "dpkg-deb", "-x", deb, filepath.Join(base, "root")); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(base, "control"), control, 0o644); err != nil {
		return err
	}
	return os.Rename(base, filepath.Join(c.dir, "packages", p.file))
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

// parseDepends reads Pre-Depends and Depends of a control file: package names
// without versions and architectures, of alternatives the first.
func parseDepends(control string) []string {
	control = strings.ReplaceAll(control, "\n ", " ") // folded lines
	var names []string
	for line := range strings.Lines(control) {
		key, value, _ := strings.Cut(line, ":")
		if key != "Depends" && key != "Pre-Depends" {
			continue
		}
		for dep := range strings.SplitSeq(value, ",") {
			first, _, _ := strings.Cut(dep, "|")
			if name := strings.FieldsFunc(first, func(r rune) bool { return strings.ContainsRune(" \t\n(:[", r) }); len(name) > 0 {
				names = append(names, name[0])
			}
		}
	}
	return names
}

// run runs a program to its end and returns what it wrote to standard output.
// Its error carries what the program complained of.
func run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	// A polite end first: apt leaves lock files behind when it is killed.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, exec.ErrNotFound):
		return nil, fmt.Errorf("%s is not there; building the image needs a Debian host: %w", name, err)
	case err != nil:
		return nil, fmt.Errorf("%s %s: %w: %s", name, args[0], err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}
