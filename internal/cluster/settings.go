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

// settingsFile keeps, until the next boot, what the host's settings were before the first cluster changed them. Every
// running cluster holds a shared lock on it: whoever gets it alone knows that nobody needs the changes any more.
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

// keepSettings remembers the host's settings, unless another cluster has already done so.
func keepSettings(root, path string) (*hostSettings, error) {
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
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, false, err
	}
	s := &hostSettings{root, f}
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
		return s, true, s.putBack()
	}
	return s, false, unix.Flock(int(f.Fd()), unix.LOCK_SH)
}

// restore puts the settings back when no other cluster runs.
func (s *hostSettings) restore() error {
	if s == nil {
		return nil
	}
	var err error
	if unix.Flock(int(s.file.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
		err = s.putBack()
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
