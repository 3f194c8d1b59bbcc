// Package module loads the guest's kernel modules from the list that the image
// carries, each at its first use, so that a machine does not pay at boot for a
// file system it never mounts.
//
// The list is made with the image; which modules belong to a group, and in
// which order, is decided there.
package module

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pierrec/lz4/v4"
	"golang.org/x/sys/unix"
)

// ListPath is where the image keeps the list: an object of group names to
// lists of absolute paths of .ko files, in loading order. Those that few
// machines need are LZ4 frames, and have compressedSuffix behind their name.
const ListPath = "/etc/katadirect/modules.json"

const compressedSuffix = ".lz4"

// Groups of modules that the agent asks for by name. Those for file systems
// have the file system's name.
const (
	Boot    = "boot"    // what the agent channel and disks need
	Network = "network" // virtio network cards
	SCSI    = "scsi"    // virtio SCSI disks
	Vsock   = "vsock"   // the agent channel, where the machine has one
	Entropy = "entropy" // the host's random numbers
	// IPTables are the tables of packet filtering and address translation,
	// and what rules are made of.
	IPTables = "iptables"
)

// Single modules that the agent asks for by name.
const (
	VirtioFS = "virtiofs"
	Overlay  = "overlay"
)

// ErrUnknown is returned for a module that is not in the image.
var ErrUnknown = errors.New("kernel module is not in the image")

// Loader loads modules, each once.
type Loader struct {
	groups map[string][]string
	insert func(path, parameters string) error

	mu     sync.Mutex // held while the kernel loads
	loaded map[string]bool
}

// Open reads the list. An image without one has everything built into its
// kernel.
func Open(path string) (*Loader, error) {
	l := &Loader{insert: insert, loaded: make(map[string]bool)}
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
	if err := l.loadAll(l.groups[group], ""); err != nil {
		return fmt.Errorf("kernel modules for %s: %w", group, err)
	}
	return nil
}

// LoadModule loads one module by name, and before it what stands before it in
// the image's list: that is what it may depend on. The parameters are the
// module's own. A module that the kernel has built in is fine without
// parameters.
func (l *Loader) LoadModule(name string, parameters ...string) error {
	suffix := "/" + canonical(name) + ".ko"
	for _, files := range l.groups {
		at := slices.IndexFunc(files, func(file string) bool {
			return strings.HasSuffix(canonical(strings.TrimSuffix(file, compressedSuffix)), suffix)
		})
		if at >= 0 {
			return l.loadAll(files[:at+1], strings.Join(parameters, " "))
		}
	}
	if _, err := os.Stat(filepath.Join("/sys/module", canonical(name))); err == nil || builtIn(name) {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrUnknown, name)
}

// builtIn says whether the kernel knows a file system by that name, which is
// how overlay and the like show when they are no modules.
func builtIn(name string) bool {
	data, err := os.ReadFile("/proc/filesystems")
	return err == nil && slices.Contains(strings.Fields(string(data)), name)
}

// loadAll loads files in their order; parameters are for the last.
func (l *Loader) loadAll(files []string, parameters string) error {
	if len(files) == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, file := range files {
		if l.loaded[file] {
			continue
		}
		its := ""
		if i == len(files)-1 {
			its = parameters
		}
		begin := time.Now()
		if err := l.insert(file, its); err != nil {
			return err
		}
		l.loaded[file] = true
		slog.Debug("kernel module is loaded", "file", file, "took", time.Since(begin))
	}
	return nil
}

// canonical is a module's one name: the kernel does not tell - from _.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

func insert(path, parameters string) error {
	err := insertFile(path, parameters)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load %s: %w", path, err)
	}
	return nil
}

func insertFile(path, parameters string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if !strings.HasSuffix(path, compressedSuffix) {
		return unix.FinitModule(int(f.Fd()), parameters, 0)
	}
	// The kernel could unpack it itself only if it was built to.
	data, err := io.ReadAll(lz4.NewReader(f))
	if err != nil {
		return err
	}
	return unix.InitModule(data, parameters)
}

// Has says whether the machine has a virtio device of that kind
// (include/uapi/linux/virtio_ids.h).
func Has(id VirtioID) bool {
	files, _ := filepath.Glob("/sys/bus/virtio/devices/*/device")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err == nil && strings.TrimSpace(string(data)) == string(id) {
			return true
		}
	}
	return false
}

// VirtioID is a kind of virtio device, as sysfs writes it.
type VirtioID string

// Kinds of devices that the agent looks for.
const (
	EntropyDevice VirtioID = "0x0004"
	VsockDevice   VirtioID = "0x0013"
)
