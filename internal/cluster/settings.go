package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/lab"
)

// settingsFile keeps what the host's settings were before the first cluster changed them. Every running cluster holds a
// shared lock on it: whoever gets it alone knows that nobody needs the changes any more, and takes the file away.
const (
	settingsFile = "/run/katadirect/cluster-settings.json"
	settingsRoot = "/proc/sys"
)

// settingNames are settings of the kernel that kubelet changes and that have no namespace.
var settingNames = []string{
	"kernel/keys/root_maxbytes", "kernel/keys/root_maxkeys", "kernel/panic", "kernel/panic_on_oops",
	"vm/overcommit_memory", "vm/panic_on_oom",
}

// hostSettings is one cluster's interest in the host's settings.
type hostSettings struct {
	root string
	file *os.File
}

// sharedDirs are folders over which each cluster has its own. Those that are not there are made, and go with the last
// cluster: to remove a folder takes what others have mounted on it away from them.
var sharedDirs = []string{"/var/lib/kubelet", "/var/lib/katadirect", "/var/log/pods", "/var/log/containers"}

// keepSettings remembers the host's settings, and which of the folders are not there, unless another cluster has already
// done so.
func keepSettings(root, path string, dirs ...string) (*hostSettings, error) {
	s, alone, err := openSettings(root, path)
	if err != nil || !alone {
		return s, err
	}
	was := map[string]string{}
	for _, name := range settingNames {
		if value, err := os.ReadFile(filepath.Join(root, name)); err == nil {
			was[name] = strings.TrimSpace(string(value))
		}
	}
	for _, dir := range dirs {
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			was[dir] = ""
		}
	}
	raw, err := json.Marshal(was)
	if err == nil {
		_, err = s.file.WriteAt(raw, 0)
	}
	return s, errors.Join(err, unix.Flock(int(s.file.Fd()), unix.LOCK_SH))
}

// openSettings opens the file. Whoever has it alone finds it empty: what a killed cluster has left is put back first.
func openSettings(root, path string) (_ *hostSettings, alone bool, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, false, err
	}
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, false, err
		}
		alone = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
		if !alone {
			err = unix.Flock(int(f.Fd()), unix.LOCK_SH)
		}
		s := &hostSettings{root, f}
		switch {
		case err != nil:
			return s, false, err
		case !isAt(f, path): // its last cluster has gone, and it with that one
			if err := f.Close(); err != nil {
				return nil, false, err
			}
		case alone:
			return s, true, s.putBack()
		default:
			return s, false, nil
		}
	}
}

func isAt(f *os.File, path string) bool {
	is, err := f.Stat()
	there, err2 := os.Stat(path)
	return err == nil && err2 == nil && os.SameFile(is, there)
}

// restore puts the settings back when no other cluster runs.
func (s *hostSettings) restore() error {
	if s == nil {
		return nil
	}
	var err error
	if unix.Flock(int(s.file.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
		if err = s.putBack(); err == nil {
			err = os.Remove(s.file.Name())
		}
	}
	return errors.Join(err, s.file.Close())
}

func (s *hostSettings) putBack() error {
	raw, err := io.ReadAll(io.NewSectionReader(s.file, 0, 1<<16))
	if err != nil || len(raw) == 0 {
		return err
	}
	was := map[string]string{}
	if err := json.Unmarshal(raw, &was); err != nil {
		return fmt.Errorf("%s: %w", s.file.Name(), err)
	}
	var errs []error
	for _, name := range settingNames {
		is, err := os.ReadFile(filepath.Join(s.root, name))
		if value, ok := was[name]; ok && err == nil && strings.TrimSpace(string(is)) != value {
			errs = append(errs, os.WriteFile(filepath.Join(s.root, name), []byte(value), 0o644))
		}
	}
	for name := range was {
		if filepath.IsAbs(name) {
			if err := os.Remove(name); !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(append(errs, s.file.Truncate(0))...)
}

// Sweep removes what clusters have left that were killed. Running ones are not touched.
func Sweep() error {
	lab.Sweep()
	s, _, err := openSettings(settingsRoot, settingsFile)
	if err != nil {
		return err
	}
	return s.restore()
}
