package guestimage

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
)

// aptPackage is one version of a Debian package, as apt would download it.
type aptPackage struct {
	Name, Version string
	Depends       []string // names of packages; of alternatives, the first
	file          string   // NAME_VERSION_ARCH, as apt names the file, without .deb
	sha256        string   // from apt's index, which is signed
}

// catalog holds the packages an image may take files from: those asked for,
// and the libraries and kernels that they depend on.
type catalog map[string]aptPackage

// askApt makes the catalog for the packages named. It asks apt twice in all,
// because every question costs half a second.
func askApt(ctx context.Context, names []string, progress func(string)) (catalog, error) {
	list := strings.Join(names, ", ")
	out, err := run(ctx, "", "apt-cache", append([]string{"depends", "--recurse", "--important"}, names...)...)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w (does apt know them? try: apt-get update)", ErrNoPackage, list, err)
	}
	depends := parseDepends(out)
	reachable := reach(depends, names)
	out, err = run(ctx, "", "apt-get", append([]string{"download", "--print-uris"}, reachable...)...)
	if err != nil && ctx.Err() == nil {
		// One library that this host has from elsewhere spoils the answer.
		// What cannot be had as a package comes from the host.
		progress("apt cannot download every library: " + err.Error())
		needed := slices.DeleteFunc(reachable, func(n string) bool { return !slices.Contains(names, n) && !isKernel(n) })
		out, err = run(ctx, "", "apt-get", append([]string{"download", "--print-uris"}, needed...)...)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w (try: apt-get update)", ErrNoPackage, list, err)
	}
	c, err := parseURIs(out)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrNoPackage, list, err)
	}
	for name, p := range c {
		p.Depends = depends[name]
		c[name] = p
	}
	for _, name := range names {
		if _, ok := c[name]; !ok {
			return nil, fmt.Errorf("%w: apt does not say where %s is", ErrNoPackage, name)
		}
	}
	return c, nil
}

// isLibrary goes by Debian's naming, with its one exception of note.
func isLibrary(pkg string) bool { return strings.HasPrefix(pkg, "lib") || pkg == "zlib1g" }

func isKernel(pkg string) bool { return strings.HasPrefix(pkg, "linux-image-") }

// reach lists names and the libraries and kernels reachable from them.
func reach(depends map[string][]string, names []string) []string {
	seen := map[string]bool{}
	for queue := slices.Clone(names); len(queue) > 0; queue = queue[1:] {
		if seen[queue[0]] {
			continue
		}
		seen[queue[0]] = true
		for _, d := range depends[queue[0]] {
			if isLibrary(d) || isKernel(d) {
				queue = append(queue, d)
			}
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// parseDepends reads the output of apt-cache depends --recurse: a package's
// name at the start of a line, then "  Depends: NAME" for each dependency, and
// " |Depends: NAME" for one that has an alternative in the next line.
func parseDepends(out []byte) map[string][]string {
	depends := map[string][]string{}
	pkg, alternative := "", false
	for sc := bufio.NewScanner(bytes.NewReader(out)); sc.Scan(); {
		line := sc.Text()
		if line != "" && line[0] != ' ' {
			pkg, alternative = line, false
			continue
		}
		kind, name, ok := strings.Cut(strings.TrimLeft(line, " |"), ": ")
		if !ok || (kind != "Depends" && kind != "PreDepends") {
			continue
		}
		isAlternative := alternative
		alternative = strings.HasPrefix(line, " |")
		if isAlternative || strings.ContainsAny(name, "<:") { // a virtual package, or another architecture's
			continue
		}
		if !slices.Contains(depends[pkg], name) {
			depends[pkg] = append(depends[pkg], name)
		}
	}
	return depends
}

// uriLine is what apt-get prints for one file: 'URI' FILE SIZE HASH.
var uriLine = regexp.MustCompile(`^'[^']*' ([a-z0-9][a-z0-9+.-]*)_([^_/ ]+)_([a-z0-9-]+)\.deb \d+ (\S+)$`)

// parseURIs reads the output of apt-get --print-uris. A package without a
// SHA-256 in apt's index is refused.
func parseURIs(out []byte) (catalog, error) {
	c := catalog{}
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
		c[m[1]] = aptPackage{Name: m[1], Version: version, file: m[1] + "_" + m[2] + "_" + m[3], sha256: sum}
	}
	return c, nil
}

// run runs a program to its end and returns what it wrote to standard output.
// Its error carries what the program complained of.
func run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	// A polite end first: killed outright, apt leaves its lock and parts.
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
