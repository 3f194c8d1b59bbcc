package guestimage

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/pierrec/lz4/v4"
)

// moduleGroup is what the agent loads at one time.
type moduleGroup struct {
	modules []string
	// rare modules are kept compressed: every guest pays, in time and in
	// memory, for what it unpacks at boot, and few for unpacking these. It is
	// for large ones: xfs and btrfs are a third of the image.
	rare bool
}

// moduleGroups are the modules the guest may want, by occasion. The agent
// loads a group when it needs it; "boot" always. Modules that these depend on
// are found and put before them. To give the guest one more module, add its
// name here.
var moduleGroups = map[string]moduleGroup{
	"boot":    {modules: []string{"virtio_pci", "virtio_console", "virtio_blk", "ext4"}},
	"network": {modules: []string{"virtio_net"}},
	"dummy":   {modules: []string{"dummy"}}, // for who asks for it by kernel_modules
	"share":   {modules: []string{"virtiofs", "overlay"}},
	"vsock":   {modules: []string{"vmw_vsock_virtio_transport"}},
	"entropy": {modules: []string{"virtio_rng"}},
	"scsi":    {modules: []string{"virtio_scsi", "sd_mod"}},
	"iptables": {rare: true, modules: []string{
		"iptable_filter", "iptable_nat", "iptable_mangle", "iptable_raw", "ipt_REJECT",
		"ip6table_filter", "ip6table_nat", "ip6table_mangle", "ip6table_raw", "ip6t_REJECT",
		"xt_tcpudp", "xt_conntrack", "xt_state", "xt_comment", "xt_mark", "xt_connmark", "xt_multiport", "xt_addrtype",
		"xt_limit", "xt_owner", "xt_statistic", "xt_nat", "xt_MASQUERADE", "xt_REDIRECT", "xt_TCPMSS",
	}},
	"xfs":   {modules: []string{"xfs"}, rare: true},
	"btrfs": {modules: []string{"btrfs"}, rare: true},
}

// modulesList is /etc/katadirect/modules.json: for each group, the modules'
// files in the guest in the order in which they must be loaded.
type modulesList map[string][]string

// module is one .ko file of the kernel package.
type module struct {
	info modinfo
	file string // path in the guest, absolute
	data []byte // without signature
}

// moduleSet reads modules from an unpacked kernel package as they are asked
// for.
type moduleSet struct {
	root    string            // folder the package is unpacked in
	files   map[string]string // module name → path below root
	builtin map[string]bool   // in the kernel itself
	read    map[string]module
}

// newModuleSet indexes the modules under lib/modules in root, an unpacked
// package with exactly one kernel.
func newModuleSet(root string) (*moduleSet, error) {
	s := &moduleSet{root: root, files: map[string]string{}, builtin: map[string]bool{}, read: map[string]module{}}
	dir, err := modulesDir(root)
	if err != nil {
		return nil, err
	}
	err = filepath.WalkDir(filepath.Join(root, dir, "kernel"), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if name, ok := strings.CutSuffix(d.Name(), ".ko"); ok {
			rel, err := filepath.Rel(root, p)
			if err != nil {
				return err
			}
			s.files[moduleName(name)] = rel
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list kernel modules: %w", err)
	}
	return s, s.readBuiltin(filepath.Join(root, dir, "modules.builtin"))
}

// modulesDir finds lib/modules/VERSION, also in a package that is laid out for
// a merged /usr.
func modulesDir(root string) (string, error) {
	for _, parent := range []string{"lib/modules", "usr/lib/modules"} {
		entries, err := os.ReadDir(filepath.Join(root, parent))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("list kernel modules: %w", err)
		}
		if len(entries) == 1 {
			return path.Join(parent, entries[0].Name()), nil
		}
	}
	return "", fmt.Errorf("list kernel modules: no single lib/modules/VERSION in the kernel package")
}

// readBuiltin notes the modules that this kernel has built in. The list is
// absent from a kernel without any.
func (s *moduleSet) readBuiltin(file string) error {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list built-in modules: %w", err)
	}
	for sc := bufio.NewScanner(bytes.NewReader(data)); sc.Scan(); {
		s.builtin[moduleName(strings.TrimSuffix(path.Base(sc.Text()), ".ko"))] = true
	}
	return nil
}

// get reads one module.
func (s *moduleSet) get(name string) (module, error) {
	if m, ok := s.read[name]; ok {
		return m, nil
	}
	rel, ok := s.files[name]
	if !ok {
		return module{}, fmt.Errorf("kernel module %s: %w in the kernel package", name, fs.ErrNotExist)
	}
	data, err := os.ReadFile(filepath.Join(s.root, rel))
	if err != nil {
		return module{}, fmt.Errorf("kernel module %s: %w", name, err)
	}
	if data, err = stripSignature(data); err != nil {
		return module{}, fmt.Errorf("kernel module %s: %w", name, err)
	}
	info, err := parseModinfo(data)
	if err != nil {
		return module{}, fmt.Errorf("kernel module %s: %w", name, err)
	}
	m := module{info: info, file: "/" + rel, data: data}
	s.read[name] = m
	return m, nil
}

// loadOrder returns the modules named and all they depend on, each after what
// it depends on. Names that the kernel has built in are left out.
func (s *moduleSet) loadOrder(names []string) ([]module, error) {
	var order []module
	state := map[string]int{} // 1 being visited, 2 done
	var visit func(name string, trail []string) error
	visit = func(name string, trail []string) error {
		switch {
		case s.builtin[name] || state[name] == 2:
			return nil
		case state[name] == 1:
			return fmt.Errorf("kernel modules depend on each other in a circle: %s", strings.Join(append(trail, name), " → "))
		}
		state[name] = 1
		m, err := s.get(name)
		if err != nil {
			return err
		}
		for _, d := range m.info.Depends {
			if err := visit(d, append(trail, name)); err != nil {
				return err
			}
		}
		state[name] = 2
		order = append(order, m)
		return nil
	}
	for _, n := range names {
		if err := visit(moduleName(n), nil); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// addModules puts every group's modules into t and returns the list for the
// agent.
func (s *moduleSet) addModules(t tree, groups map[string]moduleGroup) (modulesList, error) {
	list := modulesList{}
	common := map[string]bool{} // in a group that is not rare
	for _, rare := range []bool{false, true} {
		for name, group := range groups {
			if group.rare != rare {
				continue
			}
			order, err := s.loadOrder(group.modules)
			if err != nil {
				return nil, fmt.Errorf("module group %q: %w", name, err)
			}
			list[name] = []string{} // an empty list, not null, where all is built in
			for _, m := range order {
				common[m.info.Name] = common[m.info.Name] || !rare
				file, err := t.module(m, !common[m.info.Name])
				if err != nil {
					return nil, err
				}
				list[name] = append(list[name], file)
			}
		}
	}
	return list, nil
}

// module puts a module's file into t and returns its path. A compressed one
// is an LZ4 frame, and says so with its name.
func (t tree) module(m module, compressed bool) (string, error) {
	if !compressed {
		return m.file, t.file(m.file, 0o644, m.data)
	}
	var packed bytes.Buffer
	w := lz4.NewWriter(&packed)
	// One worker, for the same bytes in any run; the checksums are in the way
	// of speed only, the kernel's own checks come after.
	if err := w.Apply(lz4.CompressionLevelOption(lz4.Level9), lz4.ConcurrencyOption(1), lz4.ChecksumOption(false)); err != nil {
		return "", fmt.Errorf("compress %s: %w", m.file, err)
	}
	_, err := w.Write(m.data)
	if err := errors.Join(err, w.Close()); err != nil {
		return "", fmt.Errorf("compress %s: %w", m.file, err)
	}
	file := m.file + ".lz4"
	return file, t.file(file, 0o644, packed.Bytes())
}
