package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/rollback"
	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// AttachRaw gives a block device of the host to the container as it is, and returns where the guest finds it. The
// record of a raw block volume with this device, if there is one, is claimed. Without one the kernel alone
// sees to it that no two machines have the device: it is opened exclusively.
//
// It stays plugged in until the sandbox ends, or until its record is gone. ErrOtherUse, ErrDisabled, and errors as
// those of Attach.
//
// With readOnly the machine itself cannot write to it. ErrReadOnly: another container has it like that already.
func (s *Set) AttachRaw(ctx context.Context, container, device string, readOnly bool) (vm.DiskAddress, error) {
	d, _, err := s.attachDevice(ctx, container, wish{device: device, readOnly: readOnly}, raw)
	if err != nil {
		return vm.DiskAddress{}, fmt.Errorf("block device %s: %w", device, err)
	}
	return d.address, nil
}

// attachDevice plugs in a device that no record of a mounted volume is about.
func (s *Set) attachDevice(ctx context.Context, container string, w wish, k kind) (_ *disk, _ wish, err error) {
	if err := s.changing.Acquire(ctx, 1); err != nil {
		return nil, wish{}, err
	}
	defer s.changing.Release(1)
	if s.Disabled {
		return nil, wish{}, ErrDisabled
	}
	id, block, err := identify(w.device)
	if err != nil {
		return nil, wish{}, err
	}
	w.identity = id
	if block && !w.readOnly {
		if w.readOnly, err = kernelReadOnly(w.device); err != nil {
			return nil, wish{}, err
		}
	}
	var undo rollback.Stack
	defer undo.OnError(ctx, &err)
	paths, err := s.claimFor(ctx, id, &w, k, &undo)
	if err != nil {
		return nil, wish{}, err
	}
	d, err := s.find(ctx, w, k, paths...)
	if err != nil {
		return nil, wish{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, path := range paths {
		d.paths[path] = struct{}{}
	}
	d.users[container] = struct{}{}
	return d, w, nil
}

// claimFor claims the records that are about the device, under whatever name, and returns their paths. One of a volume
// that is mounted forbids every other use. The limits in the records become the wish's.
func (s *Set) claimFor(ctx context.Context, id identity, w *wish, k kind, undo *rollback.Stack) (paths []string, err error) {
	entries, err := s.Records.List(ctx)
	if err != nil {
		return nil, err
	}
	same := []identity{id}
	if unix.Major(id.rdev) == loopMajor {
		if file, ok := fileOfLoop(w.device); ok {
			same = append(same, file) // who has the one has the other
		}
	}
	for _, e := range entries {
		if e.Err != nil {
			continue // nobody can have it by that one
		}
		about, _, err := identify(e.Record.Device)
		if err != nil || !slices.Contains(same, about) {
			continue
		}
		if e.Record.FSType != "" || k != raw {
			return nil, fmt.Errorf("%w: it is recorded as the volume %s", ErrOtherUse, e.VolumePath)
		}
		record, err := s.Records.Claim(ctx, e.VolumePath, s.Sandbox)
		if err != nil {
			return nil, err
		}
		if limits, err := record.Limits(); err == nil && !limits.None() {
			w.limits = limits
		}
		undo.Push("release the claim", func(ctx context.Context) error {
			if s.claimed(e.VolumePath) {
				return nil
			}
			return s.Records.Release(ctx, e.VolumePath, s.Sandbox)
		})
		paths = append(paths, e.VolumePath)
	}
	return paths, nil
}

// HostDevice finds the device node of a block device on this host by its number.
func HostDevice(major, minor int64) (string, error) {
	dir := fmt.Sprintf("/sys/dev/block/%d:%d", major, minor)
	text, err := os.ReadFile(filepath.Join(dir, "uevent"))
	if err != nil {
		return "", fmt.Errorf("%w: the host has no block device %d:%d", directvolume.ErrDevice, major, minor)
	}
	for line := range strings.Lines(string(text)) {
		name, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME=")
		if !ok {
			continue
		}
		node := filepath.Join("/dev", name)
		id, block, err := identify(node)
		if err == nil && (!block || id.rdev != unix.Mkdev(uint32(major), uint32(minor))) {
			err = errors.New("it is another device")
		}
		if err != nil {
			return "", fmt.Errorf("%w: block device %d:%d has no node %s: %w", directvolume.ErrDevice, major, minor, node, err)
		}
		return node, nil
	}
	return "", fmt.Errorf("%w: block device %d:%d has no name", directvolume.ErrDevice, major, minor)
}
