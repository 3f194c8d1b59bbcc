package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/katadirect/katadirect/internal/durable"
	"github.com/katadirect/katadirect/pkg/runtime/child"
	"github.com/katadirect/katadirect/pkg/runtime/network"
)

// remains is what a later process must know to clean up after this one. Everything else it finds by the sandbox's id.
type remains struct {
	// Bundle holds the monitor_address file.
	Bundle string `json:"bundle"`
	// Daemon is the running virtiofsd.
	Daemon child.Process `json:"virtiofsd"`
	// Network is what the pod's network namespace holds of this.
	Network network.Remains `json:"network"`
	// Rootfs are the paths at which root file systems are mounted.
	Rootfs []string `json:"rootfs"`
	// EmptyDirs are the folders of emptyDir volumes behind which there is a disk, or was to be.
	EmptyDirs []string `json:"emptyDirs,omitempty"`
}

// maxStateBytes bounds persist.json: a few hundred containers.
const maxStateBytes = 1 << 20

// stateFile keeps remains on disk. A change is written before what it speaks of is done.
type stateFile struct {
	path string

	mu     sync.Mutex
	now    remains
	rootfs map[string]string // by container
}

func newStateFile(path, bundle string) *stateFile {
	return &stateFile{path: path, now: remains{Bundle: bundle}, rootfs: make(map[string]string)}
}

func (f *stateFile) setDaemon(p child.Process) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now.Daemon = p
	return f.write()
}

func (f *stateFile) setNetwork(n network.Remains) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now.Network = n
	return f.write()
}

func (f *stateFile) addRootfs(container, path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rootfs[container] = path
	return f.write()
}

func (f *stateFile) removeRootfs(container string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.rootfs[container]; !ok {
		return nil
	}
	delete(f.rootfs, container)
	return f.write()
}

func (f *stateFile) addEmptyDir(dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now.EmptyDirs = append(f.now.EmptyDirs, dir)
	return f.write()
}

func (f *stateFile) removeEmptyDir(dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now.EmptyDirs = slices.DeleteFunc(f.now.EmptyDirs, func(d string) bool { return d == dir })
	return f.write()
}

func (f *stateFile) emptyDirs() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.now.EmptyDirs)
}

func (f *stateFile) write() error {
	f.now.Rootfs = slices.Sorted(maps.Values(f.rootfs))
	data, err := json.Marshal(f.now)
	if err != nil {
		return err
	}
	return durable.WriteFile(f.path, data, 0o600)
}

// readRemains returns what a sandbox wrote. A file that is not there, or not whole, says nothing: the rest of the
// cleaning up goes by the sandbox's id.
func readRemains(path string) (remains, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return remains{}, nil
	}
	if err != nil {
		return remains{}, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxStateBytes {
		return remains{}, fmt.Errorf("%s is not a state file", path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return remains{}, err
	}
	var r remains
	if err := json.Unmarshal(data, &r); err != nil {
		return remains{}, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}
