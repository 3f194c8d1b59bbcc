package guestimage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
	ipTables,
	{pkg: "xfsprogs", files: []string{"/sbin/mkfs.xfs", "/sbin/xfs_repair"}},
	{pkg: "btrfs-progs", files: []string{"/sbin/mkfs.btrfs", "/bin/btrfstune"}},
	// The C library loads it by name when a thread is cancelled, so no
	// DT_NEEDED leads to it.
	{pkg: "libgcc-s1", files: []string{"/lib/x86_64-linux-gnu/libgcc_s.so.1"}},
}

// xtables is where iptables looks for its extensions, by name.
const xtables = "/usr/lib/x86_64-linux-gnu/xtables/"

// ipTables has the extensions for which moduleGroups has the kernel's side.
var ipTables = tool{
	pkg: "iptables",
	files: []string{
		"/usr/sbin/xtables-legacy-multi",
		xtables + "libip6t_REJECT.so", xtables + "libip6t_icmp6.so", xtables + "libipt_REJECT.so", xtables + "libipt_icmp.so",
		xtables + "libxt_CONNMARK.so", xtables + "libxt_MARK.so", xtables + "libxt_NAT.so", xtables + "libxt_TCPMSS.so",
		xtables + "libxt_addrtype.so", xtables + "libxt_comment.so", xtables + "libxt_connmark.so", xtables + "libxt_conntrack.so",
		xtables + "libxt_limit.so", xtables + "libxt_mark.so", xtables + "libxt_multiport.so", xtables + "libxt_owner.so",
		xtables + "libxt_standard.so", xtables + "libxt_statistic.so", xtables + "libxt_tcp.so", xtables + "libxt_udp.so",
	},
	links: map[string]string{
		xtables + "libxt_DNAT.so": "libxt_NAT.so", xtables + "libxt_SNAT.so": "libxt_NAT.so",
		xtables + "libxt_MASQUERADE.so": "libxt_NAT.so", xtables + "libxt_REDIRECT.so": "libxt_NAT.so",
		xtables + "libxt_state.so": "libxt_conntrack.so",
	},
}

var btrfsTools = tool{pkg: "btrfs-progs", files: []string{"/bin/btrfs"}}

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

func (o Options) groups() map[string]moduleGroup {
	if o.Bare {
		return map[string]moduleGroup{"boot": moduleGroups["boot"]}
	}
	return moduleGroups
}

// collection is everything an image consists of, before it is written.
type collection struct {
	cache    *packageCache
	kernel   aptPackage // the package that holds the kernel
	vmlinuz  string     // the bzImage in it
	tree     tree
	manifest Manifest
}

// collect fetches the packages and lays the guest's files out.
func collect(ctx context.Context, o Options) (*collection, error) {
	tools := o.tools()
	names := []string{o.KernelPackage}
	for _, t := range tools {
		names = append(names, t.pkg)
	}
	catalog, err := askApt(ctx, names, o.Progress)
	if err != nil {
		return nil, err
	}
	c := &collection{
		cache:    &packageCache{dir: filepath.Join(o.CacheDir, "packages"), catalog: catalog, progress: o.Progress},
		tree:     newTree(),
		manifest: Manifest{Packages: map[string]string{}},
	}
	if err := c.cache.fetch(ctx, names...); err != nil {
		return nil, err
	}
	if err := c.addKernel(ctx, o.KernelPackage, o.groups()); err != nil {
		return nil, err
	}
	if err := c.addTools(ctx, tools); err != nil {
		return nil, err
	}
	if err := c.addAgent(o.AgentPath); err != nil {
		return nil, err
	}
	return c, c.addManifest()
}

// addKernel puts the kernel's modules into the tree.
func (c *collection) addKernel(ctx context.Context, pkg string, groups map[string]moduleGroup) error {
	if err := c.findKernel(ctx, pkg); err != nil {
		return err
	}
	c.manifest.Kernel = strings.TrimPrefix(filepath.Base(c.vmlinuz), "vmlinuz-")
	c.manifest.Packages[c.kernel.Name] = c.kernel.Version
	set, err := newModuleSet(c.cache.root(c.kernel))
	if err != nil {
		return err
	}
	list, err := set.addModules(c.tree, groups)
	if err != nil {
		return err
	}
	return c.addJSON("/etc/katadirect/modules.json", list)
}

// findKernel finds the package that holds the kernel: pkg, or the one that
// pkg, a meta package, depends on.
func (c *collection) findKernel(ctx context.Context, pkg string) error {
	names := append([]string{pkg}, slices.DeleteFunc(slices.Clone(c.cache.catalog[pkg].Depends), func(n string) bool { return !isKernel(n) })...)
	for _, name := range names {
		root, err := c.cache.get(ctx, name)
		if err != nil {
			return err
		}
		found, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
		if err != nil {
			return err
		}
		if len(found) == 1 {
			c.kernel, c.vmlinuz = c.cache.catalog[name], found[0]
			return nil
		}
	}
	return fmt.Errorf("%w: no kernel in %s", ErrNoPackage, strings.Join(names, ", "))
}

// addTools copies the tools and the libraries they need.
func (c *collection) addTools(ctx context.Context, tools []tool) error {
	libs := &debianLibraries{cache: c.cache, used: c.manifest.Packages}
	var programs []elfFile
	for _, t := range tools {
		added, err := c.addTool(ctx, t)
		if err != nil {
			return fmt.Errorf("package %s: %w", t.pkg, err)
		}
		programs = append(programs, added...)
	}
	if err := addClosure(ctx, c.tree, programs, libs); err != nil {
		return err
	}
	c.manifest.HostFiles = libs.fromHost
	return nil
}

// addTool copies one package's files and returns the programs among them.
func (c *collection) addTool(ctx context.Context, t tool) ([]elfFile, error) {
	root, err := c.cache.get(ctx, t.pkg)
	if err != nil {
		return nil, err
	}
	c.manifest.Packages[t.pkg] = c.cache.catalog[t.pkg].Version
	var programs []elfFile
	for _, f := range t.files {
		data, err := readMerged(root, f)
		if err != nil {
			return nil, err
		}
		perm := uint64(0o644)
		if isELF(data) {
			perm = 0o755
			programs = append(programs, elfFile{path: f, data: data, pkg: t.pkg})
		}
		if err := c.tree.file(f, perm, data); err != nil {
			return nil, err
		}
	}
	for from, to := range t.links {
		if err := c.tree.link(from, to); err != nil {
			return nil, err
		}
	}
	return programs, nil
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
