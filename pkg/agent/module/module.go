// Package module loads the guest's kernel modules from the list that the image
// carries. A group is loaded at its first use, so that a machine does not pay
// at boot for a file system it never mounts.
//
// The list is made with the image; which modules belong to a group, and in
// which order, is decided there.
package module

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ListPath is where the image keeps the list: an object of group names to
// lists of absolute paths of .ko files, in loading order.
const ListPath = "/etc/katadirect/modules.json"

// Groups of modules that the agent asks for by name. Those for file systems
// have the file system's name.
const (
	Boot    = "boot"    // what the agent channel and disks need
	Network = "network" // virtio network cards
	Share   = "share"   // virtio-fs and overlayfs
	SCSI    = "scsi"    // virtio SCSI disks
	Vsock   = "vsock"   // the agent channel, where the machine has one
	Entropy = "entropy" // the host's random numbers
)

// ErrUnknown is returned for a module that is not in the image.
var ErrUnknown = errors.New("kernel module is not in the image")

// Loader loads groups of modules, each once.
type Loader struct {
	groups map[string][]string

	mu     sync.Mutex
	loaded map[string]func() error
}

// Open reads the list. An image without one has everything built into its
// kernel.
func Open(path string) (*Loader, error) {
	l := &Loader{loaded: make(map[string]func() error)}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list of kernel modules: %w", err)
	}
	if err := json.Unmarshal(data, &l.groups); err != nil {
		return nil, fmt.Errorf("list of kernel modules: %w", err)
	}
	return l, nil
}

// Load loads a group, or waits until another caller has. A group that the
// image does not list is taken to be built into the kernel.
func (l *Loader) Load(group string) error {
	l.mu.Lock()
	load, ok := l.loaded[group]
	if !ok {
		load = sync.OnceValue(func() error { return l.loadAll(group) })
		l.loaded[group] = load
	}
	l.mu.Unlock()
	return load()
}

func (l *Loader) loadAll(group string) error {
	begin := time.Now()
	for _, path := range l.groups[group] {
		if err := insert(path, ""); err != nil {
			return fmt.Errorf("load kernel modules for %s: %w", group, err)
		}
	}
	slog.Debug("kernel modules are loaded", "group", group, "took", time.Since(begin))
	return nil
}

// virtioGroups are the groups that the virtio devices with these ids want
// (include/uapi/linux/virtio_ids.h).
var virtioGroups = map[string]string{
	"0x0001": Network,
	"0x0004": Entropy,
	"0x0013": Vsock,
	"0x001a": Share,
}

// Wanted returns the groups that the machine's virtio devices want beyond Boot.
func Wanted() []string {
	files, _ := filepath.Glob("/sys/bus/virtio/devices/*/device")
	var groups []string
	for _, file := range files {
		id, err := os.ReadFile(file)
		group, ok := virtioGroups[strings.TrimSpace(string(id))]
		if err == nil && ok && !slices.Contains(groups, group) {
			groups = append(groups, group)
		}
	}
	return groups
}

// Insert loads one module by name, with parameters. What it depends on must be
// in the image's list before it, in the same group.
func (l *Loader) Insert(name string, parameters []string) error {
	wanted := "/" + canonical(name) + ".ko"
	for _, paths := range l.groups {
		for i, path := range paths {
			if !strings.HasSuffix(canonical(path), wanted) {
				continue
			}
			for _, before := range paths[:i] {
				if err := insert(before, ""); err != nil {
					return err
				}
			}
			return insert(path, strings.Join(parameters, " "))
		}
	}
	if _, err := os.Stat("/sys/module/" + canonical(name)); err == nil {
		return nil // built in, or loaded
	}
	return fmt.Errorf("%w: %s", ErrUnknown, name)
}

// canonical is a module's one name: the kernel does not tell - from _.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

func insert(path, parameters string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("kernel module: %w", err)
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), parameters, 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("kernel module %s: %w", path, err)
	}
	return nil
}
