// Package stage remembers which volumes kubelet has staged on this node, and how: one JSON file per volume in a
// folder below /run. In direct mode staging mounts nothing, so this memory is all there is to it.
//
// Staged state does not outlive a reboot, and neither do the machines and records it goes with. Where /run is not a
// tmpfs, the boot id in each file sees to that. Within one boot the files survive the driver, so that a driver that
// is restarted between stage and publish goes on as if nothing had happened.
//
// Package csi is the caller, and orders calls for one volume. What is published is not kept here: the records of
// pkg/directvolume are the only word on that.
package stage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// DefaultDir is where the driver keeps staged state.
const DefaultDir = "/run/katadirect/csi"

const (
	suffix     = ".json"
	tempSuffix = ".tmp"
	dirMode    = 0o700
	fileMode   = 0o600
	bootIDPath = "/proc/sys/kernel/random/boot_id"
)

// ErrNotStaged says that the volume is not staged on this node since it booted.
var ErrNotStaged = errors.New("volume is not staged")

// Volume is one staged volume.
type Volume struct {
	ID          string   `json:"volume-id"`
	StagingPath string   `json:"staging-path"`
	FSType      string   `json:"fstype"`
	ReadOnly    bool     `json:"read-only"`
	Options     []string `json:"options,omitempty"`
	// SELinuxLabel is the label that all files are to have, from kubelet; "" for none.
	SELinuxLabel string `json:"selinux-label,omitempty"`
	// OnHost says that the host mounts the volume, or was about to: there may be a mount and a loop device.
	OnHost bool `json:"on-host,omitempty"`
}

// file is what is on disk: the volume, and the boot it was staged in.
type file struct {
	Volume
	BootID string `json:"boot-id"`
}

// Store is the folder of staged state. It keeps nothing in memory.
type Store struct {
	dir    string
	bootID string
}

// Open returns the store in dir ("" is DefaultDir), makes the folder, and removes what earlier boots and crashes left.
func Open(dir string) (*Store, error) {
	if dir == "" {
		dir = DefaultDir
	}
	bootID, err := os.ReadFile(bootIDPath)
	if err != nil {
		return nil, fmt.Errorf("open staged state: %w", err)
	}
	s := &Store{dir: filepath.Join(dir, "staged"), bootID: string(bytes.TrimSpace(bootID))}
	if err := os.MkdirAll(s.dir, dirMode); err != nil {
		return nil, fmt.Errorf("open staged state: %w", err)
	}
	return s, s.sweep()
}

// sweep removes files that say nothing about this boot.
func (s *Store) sweep() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("open staged state: %w", err)
	}
	for _, e := range entries {
		id, isState := strings.CutSuffix(e.Name(), suffix)
		if isState {
			if _, err := s.Get(context.Background(), id); !errors.Is(err, ErrNotStaged) {
				continue
			}
		} else if !strings.HasSuffix(e.Name(), tempSuffix) {
			continue
		}
		if err := os.Remove(filepath.Join(s.dir, e.Name())); err != nil {
			return fmt.Errorf("open staged state: %w", err)
		}
	}
	return nil
}

func (s *Store) path(id string) string { return filepath.Join(s.dir, id+suffix) }

// Get returns the staged volume, or ErrNotStaged. The id has been validated by the caller: it names a file here.
func (s *Store) Get(_ context.Context, id string) (Volume, error) {
	data, err := readFile(s.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return Volume{}, fmt.Errorf("%w: %s", ErrNotStaged, id)
	}
	if err != nil {
		return Volume{}, fmt.Errorf("read staged state of %s: %w", id, err)
	}
	var f file
	// Only a power cut can tear a file here, so a torn one is of another boot.
	if json.Unmarshal(data, &f) != nil || f.BootID != s.bootID || f.ID != id {
		return Volume{}, fmt.Errorf("%w: %s", ErrNotStaged, id)
	}
	return f.Volume, nil
}

// Put remembers the volume, whole or not at all. It survives the driver, and need not survive the machine: no fsync.
func (s *Store) Put(_ context.Context, v Volume) error {
	data, err := json.Marshal(file{Volume: v, BootID: s.bootID})
	if err != nil {
		return fmt.Errorf("write staged state of %s: %w", v.ID, err)
	}
	temp := filepath.Join(s.dir, v.ID+tempSuffix)
	if err = writeFile(temp, data); err == nil {
		err = unix.Rename(temp, s.path(v.ID))
	}
	if err != nil {
		return fmt.Errorf("write staged state of %s: %w", v.ID, errors.Join(err, remove(temp)))
	}
	return nil
}

// Delete forgets the volume. Forgetting one that is not staged succeeds.
func (s *Store) Delete(_ context.Context, id string) error {
	if err := remove(s.path(id)); err != nil {
		return fmt.Errorf("remove staged state of %s: %w", id, err)
	}
	return nil
}

func remove(path string) error {
	if err := unix.Unlink(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &fs.PathError{Op: "unlink", Path: path, Err: err}
	}
	return nil
}
