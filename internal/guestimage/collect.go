package guestimage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// tool is what the image takes from one package.
type tool struct {
	pkg   string
	files []string          // copied to the same path
	links map[string]string // path → target
}

// baseTools are in every image that is not bare.
var baseTools = []tool{
	{pkg: "crun", files: []string{"/usr/bin/crun"}},
	{
		pkg:   "e2fsprogs",
		files: []string{"/sbin/mke2fs", "/sbin/e2fsck", "/etc/mke2fs.conf"},
		links: map[string]string{"/sbin/mkfs.ext4": "mke2fs", "/sbin/fsck.ext4": "e2fsck"},
	},
	{pkg: "xfsprogs", files: []string{"/sbin/mkfs.xfs", "/sbin/xfs_repair"}},
	// The C library loads it by name when a thread is cancelled, so no
	// DT_NEEDED leads to it.
	{pkg: "libgcc-s1", files: []string{"/lib/x86_64-linux-gnu/libgcc_s.so.1"}},
}

var btrfsTools = tool{pkg: "btrfs-progs", files: []string{"/bin/btrfs", "/sbin/mkfs.btrfs"}}

var debugTools = tool{
	pkg:   "busybox-static",
	files: []string{"/bin/busybox"},
	links: map[string]string{"/bin/sh": "busybox"},
}

func (o Options) tools() []tool {
	if o.Bare {
		return nil
	}
	tools := baseTools
	if o.Btrfs {
		tools = append(tools[:len(tools):len(tools)], btrfsTools)
	}
	if o.Debug {
		tools = append(tools[:len(tools):len(tools)], debugTools)
	}
	return tools
}

// collection is everything an image consists of, before it is written.
type collection struct {
	kernel   unpacked // the package that holds the kernel
	vmlinuz  string   // the bzImage in it
	tree     tree
	manifest Manifest
}

// collect fetches the packages and lays the guest's files out.
func collect(ctx context.Context, o Options) (*collection, error) {
	cache := &packageCache{dir: o.CacheDir, progress: o.Progress}
	c := &collection{tree: newTree(), manifest: Manifest{Packages: map[string]string{}}}
	tools := o.tools()
	names := []string{o.KernelPackage}
	for _, t := range tools {
		names = append(names, t.pkg)
	}
	pkgs, err := cache.fetch(ctx, names...)
	if err != nil {
		return nil, err
	}
	byName := map[string]unpacked{}
	for _, p := range pkgs {
		byName[p.Name] = p
	}
	if err := c.addKernel(ctx, cache, byName[o.KernelPackage]); err != nil {
		return nil, err
	}
	if err := c.addTools(ctx, cache, tools, byName); err != nil {
		return nil, err
	}
	if err := c.addAgent(o.AgentPath); err != nil {
		return nil, err
	}
	return c, c.addManifest()
}

// addKernel finds the kernel, following a meta package to the one it depends
// on, and puts its modules into the tree.
func (c *collection) addKernel(ctx context.Context, cache *packageCache, p unpacked) error {
	for range 3 {
		found, err := filepath.Glob(filepath.Join(p.root, "boot", "vmlinuz-*"))
		if err != nil {
			return err
		}
		if len(found) == 1 {
			c.kernel, c.vmlinuz = p, found[0]
			break
		}
		next := ""
		for _, d := range p.depends {
			if strings.HasPrefix(d, "linux-image-") {
				next = d
			}
		}
		if next == "" {
			return fmt.Errorf("%w: %s holds no kernel and depends on no linux-image", ErrNoPackage, p.Name)
		}
		pkgs, err := cache.fetch(ctx, next)
		if err != nil {
			return err
		}
		p = pkgs[0]
	}
	if c.vmlinuz == "" {
		return fmt.Errorf("%w: no kernel behind %s", ErrNoPackage, p.Name)
	}
	c.manifest.Kernel = strings.TrimPrefix(filepath.Base(c.vmlinuz), "vmlinuz-")
	c.manifest.Packages[c.kernel.Name] = c.kernel.Version
	set, err := newModuleSet(c.kernel.root)
	if err != nil {
		return err
	}
	list, err := set.addModules(c.tree, moduleGroups)
	if err != nil {
		return err
	}
	return c.addJSON("/etc/katadirect/modules.json", list)
}

// addTools copies the tools and the libraries they need.
func (c *collection) addTools(ctx context.Context, cache *packageCache, tools []tool, byName map[string]unpacked) error {
	libs := &debianLibraries{cache: cache, have: byName, used: c.manifest.Packages}
	var programs []elfFile
	for _, t := range tools {
		p := byName[t.pkg]
		c.manifest.Packages[p.Name] = p.Version
		for _, f := range t.files {
			data, err := readMerged(p.root, f)
			if err != nil {
				return fmt.Errorf("package %s %s: %w", p.Name, p.Version, err)
			}
			perm := uint64(0o644)
			if isELF(data) {
				perm = 0o755
				programs = append(programs, elfFile{path: f, data: data, pkgName: t.pkg})
			}
			if err := c.tree.file(f, perm, data); err != nil {
				return err
			}
		}
		for from, to := range t.links {
			if err := c.tree.link(from, to); err != nil {
				return err
			}
		}
	}
	if err := addClosure(ctx, c.tree, programs, libs); err != nil {
		return err
	}
	c.manifest.HostFiles = libs.fromHost
	return nil
}

// addAgent makes the agent the guest's init.
func (c *collection) addAgent(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrAgent, err)
	}
	sum := sha256.Sum256(data)
	c.manifest.Agent = hex.EncodeToString(sum[:])
	return c.tree.file("/init", 0o755, data)
}

// addManifest names the content and puts the manifest into the guest.
func (c *collection) addManifest() error {
	h := sha256.New()
	fmt.Fprintf(h, "%s %s %s", c.kernel.Name, c.kernel.Version, c.tree.digest())
	c.manifest.Version = hex.EncodeToString(h.Sum(nil))[:16]
	return c.addJSON("/etc/katadirect/image.json", c.manifest)
}

func (c *collection) addJSON(p string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("guest image: %s: %w", p, err)
	}
	return c.tree.file(p, 0o644, append(data, '\n'))
}

// checkAgent says early and plainly why a program cannot be the guest's init.
func checkAgent(file string) error {
	if file == "" {
		return fmt.Errorf("%w: no agent named", ErrAgent)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrAgent, err)
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrAgent, file, err)
	}
	if f.Machine != elf.EM_X86_64 || (f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN) {
		return fmt.Errorf("%w: %s is no program for x86-64", ErrAgent, file)
	}
	l, err := readLinkage(data)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrAgent, file, err)
	}
	if l.interp != "" || len(l.needed) > 0 {
		return fmt.Errorf("%w: %s needs libraries; build it with CGO_ENABLED=0", ErrAgent, file)
	}
	return nil
}

// debianLibraries finds libraries in the packages that the asking package
// depends on, downloading them as needed, and then on the host.
type debianLibraries struct {
	cache    *packageCache
	have     map[string]unpacked
	used     map[string]string // versions of the packages that gave something
	fromHost []string
}

func (d *debianLibraries) library(ctx context.Context, soname, forPackage string) ([]byte, string, error) {
	for _, name := range d.candidates(soname, forPackage) {
		p, ok := d.have[name]
		if !ok {
			pkgs, err := d.cache.fetch(ctx, name)
			if err != nil {
				return nil, "", err
			}
			p = pkgs[0]
			d.have[name] = p
		}
		data, err := findLibrary(p.root, soname)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, "", err
		}
		d.used[p.Name] = p.Version
		return data, p.Name, nil
	}
	data, err := findLibrary("/", soname)
	if err == nil {
		d.fromHost = append(d.fromHost, soname)
	}
	return data, forPackage, err
}

// candidates are the packages to look for a library in: the asking package
// itself, the one it depends on whose name is the library's by Debian's
// convention (libcap.so.2 → libcap2), the others with "lib" in front that are
// unpacked already, then those that would have to be downloaded.
func (d *debianLibraries) candidates(soname, forPackage string) []string {
	deps := d.have[forPackage].depends
	convention := libraryPackage(soname)
	rank := func(name string) int {
		_, have := d.have[name]
		switch {
		case name == convention:
			return 0
		case have:
			return 1
		default:
			return 2
		}
	}
	names := []string{forPackage}
	for want := range 3 {
		for _, n := range deps {
			if strings.HasPrefix(n, "lib") && rank(n) == want {
				names = append(names, n)
			}
		}
	}
	return names
}

// libraryPackage gives the package name that Debian's policy derives from a
// library's: libfoo.so.1 → libfoo1, libfoo2.so.1 → libfoo2-1.
func libraryPackage(soname string) string {
	base, version, ok := strings.Cut(path.Base(soname), ".so.")
	if !ok || base == "" {
		return ""
	}
	if last := base[len(base)-1]; last >= '0' && last <= '9' {
		base += "-"
	}
	return strings.ReplaceAll(strings.ToLower(base+version), "_", "-")
}
