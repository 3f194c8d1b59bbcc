package model

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

// audit compares all that is on disk with the model, and says what differs. Nothing may be under way.
func (w *world) audit(s state) error {
	return errors.Join(w.auditPool(s), w.auditRecords(s), w.auditStaged(s), w.auditDevices(s), w.auditList(s))
}

// auditList asks for pages of two, so that every page but the last has a token.
func (w *world) auditList(s state) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	var paged []string
	for token := ""; ; {
		r, err := w.page(ctx, token)
		if err != nil {
			return fmt.Errorf("list: %w", err)
		}
		paged = append(paged, r.ids...)
		if token = r.next; token == "" {
			break
		}
	}
	var want []string
	for i, v := range s.volumes {
		if v.exists {
			want = append(want, w.ids[i])
		}
	}
	slices.Sort(want)
	if slices.Sort(paged); !slices.Equal(paged, want) {
		return fmt.Errorf("the pages list %v, there should be %v", paged, want)
	}
	return nil
}

// auditPool looks at every volume's image: its length, and each mark.
func (w *world) auditPool(s state) error {
	var errs []error
	var want []string
	for i, v := range s.volumes {
		if v.exists {
			want = append(want, w.ids[i])
			errs = append(errs, auditImage(fmt.Sprintf("volume %d", i), w.image(i), v.sizeBytes, v.written), w.auditAttached(i, v), w.auditLimits(i, v))
		}
	}
	for i, one := range s.snapshots {
		if one.exists {
			want = append(want, w.snaps[i])
			errs = append(errs, auditImage(fmt.Sprintf("snapshot %d", i), filepath.Join(w.Pool(), w.snaps[i], "disk.img"), one.sizeBytes, one.written))
		}
	}
	for i, exists := range s.groups {
		if exists {
			want = append(want, w.groups[i])
		}
	}
	return errors.Join(append(errs, onlyThere("the pool", w.Pool(), want, ".lock"))...)
}

// auditAttached looks for the file that says whether, and how, the volume is attached.
func (w *world) auditAttached(i int, v volume) error {
	for name, want := range map[string]bool{"attached": v.attached && !v.attachedToRead, "attached-read-only": v.attached && v.attachedToRead} {
		if _, err := os.Lstat(filepath.Join(w.Pool(), w.ids[i], name)); (err == nil) != want {
			return fmt.Errorf("volume %d should have a file %s: %t, and has: %t", i, name, want, err == nil)
		}
	}
	return nil
}

func auditImage(what, path string, sizeBytes int64, written map[int64]uint64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &stat); err != nil {
		return err
	}
	if stat.Size != sizeBytes {
		return fmt.Errorf("%s has %d bytes, and should have %d", what, stat.Size, sizeBytes)
	}
	if len(written) == 0 && stat.Blocks != 0 {
		return fmt.Errorf("nobody has written to %s, and %d blocks of it are there", what, stat.Blocks)
	}
	for at, mark := range written {
		var data [8]byte
		if _, err := f.ReadAt(data[:], at); err != nil {
			return fmt.Errorf("%s at %d: %w", what, at, err)
		}
		if got := binary.LittleEndian.Uint64(data[:]); got != mark {
			return fmt.Errorf("%s has %x at %d, and %x was written", what, got, at, mark)
		}
	}
	return nil
}

// auditRecords checks that each published volume has one record, and which living sandbox has it.
func (w *world) auditRecords(s state) error {
	entries, err := w.store.List(context.Background())
	if err != nil {
		return err
	}
	var got, want []string
	for _, e := range entries {
		if e.Err != nil {
			return fmt.Errorf("record of %s: %w", e.VolumePath, e.Err)
		}
		got = append(got, fmt.Sprintf("%s at %s, ro %t, limits %q, sandboxes %v", e.Record.Device, e.VolumePath,
			slices.Contains(e.Record.Options, "ro"), e.Record.Metadata[directvolume.MetadataLimits], e.Sandboxes))
	}
	for i, v := range s.volumes {
		if !v.published {
			continue
		}
		who := []string{}
		if v.sandbox != 0 && w.running[v.sandbox] != nil {
			who = append(who, w.running[v.sandbox].id)
		}
		want = append(want, fmt.Sprintf("%s at %s, ro %t, limits %q, sandboxes %v", w.image(i), w.target(v.target), v.publishedToRead, v.limits, who))
	}
	slices.Sort(got)
	if slices.Sort(want); !slices.Equal(got, want) {
		return fmt.Errorf("there are the records\n  %s\nand should be\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
	return nil
}

func (w *world) auditStaged(s state) error {
	dir := filepath.Join(w.State(), "staged")
	var names []string
	for i, v := range s.volumes {
		if !v.staged {
			continue
		}
		names = append(names, w.ids[i]+".json")
		var on struct {
			Path     string `json:"staging-path"`
			ReadOnly bool   `json:"read-only"`
		}
		data, err := os.ReadFile(filepath.Join(dir, w.ids[i]+".json"))
		if err == nil {
			err = json.Unmarshal(data, &on)
		}
		if err != nil || on.Path != w.staging(i, v.stagedAt) || on.ReadOnly != v.stagedToRead {
			return fmt.Errorf("volume %d is staged as %+v (%v), and should be at %s, read-only %t",
				i, on, err, w.staging(i, v.stagedAt), v.stagedToRead)
		}
	}
	return onlyThere("staged state", dir, names)
}

// auditDevices checks that every raw volume that is staged has one loop device, nothing else has one, and each
// published volume is what it should be at its target.
func (w *world) auditDevices(s state) error {
	var got, want []string
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return err
	}
	for _, file := range files {
		if data, err := os.ReadFile(file); err == nil && strings.HasPrefix(string(data), w.Pool()+"/") {
			got = append(got, strings.TrimSpace(string(data)))
		}
	}
	for i, v := range s.volumes {
		if v.raw && v.staged {
			want = append(want, w.image(i))
		}
		if !v.published {
			continue
		}
		var stat unix.Stat_t
		if err := unix.Lstat(w.target(v.target), &stat); err != nil {
			return fmt.Errorf("the target of volume %d: %w", i, err)
		}
		if is := stat.Mode & unix.S_IFMT; v.raw != (is == unix.S_IFBLK) || !v.raw != (is == unix.S_IFDIR) {
			return fmt.Errorf("the target of volume %d (raw %t) has mode %o", i, v.raw, stat.Mode)
		}
	}
	slices.Sort(got)
	if slices.Sort(want); !slices.Equal(got, want) {
		return fmt.Errorf("there are loop devices over\n  %s\nand should be over\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
	return nil
}

// auditEmpty checks that nothing is left when everything has been taken away.
func (w *world) auditEmpty() error {
	errs := []error{w.audit(state{}), w.auditNoRecords()}
	for n := range targets {
		if _, err := os.Lstat(w.target(n)); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("target %d is left: %w", n, err))
		}
	}
	return errors.Join(errs...)
}

// auditNoRecords checks that nothing is among the records but what the driver does with them beside the calls: that ends by
// itself, but not at once.
func (w *world) auditNoRecords() error {
	const drafts = ".tmp-"
	entries, err := os.ReadDir(w.Records())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	made := 0
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), drafts) {
			return fmt.Errorf("the record %s is left", e.Name())
		}
		made++
	}
	if most := 10; made > most {
		return fmt.Errorf("the records have %d that are in the making or on their way out", made)
	}
	return nil
}

// onlyThere checks that a folder has those names, and no other but those that do not count.
func onlyThere(what, dir string, want []string, exempt ...string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var got []string
	for _, e := range entries {
		if !slices.Contains(exempt, e.Name()) {
			got = append(got, e.Name())
		}
	}
	slices.Sort(got)
	want = slices.Sorted(slices.Values(want))
	if !slices.Equal(got, want) {
		return fmt.Errorf("%s has %v, and should have %v", what, got, want)
	}
	return nil
}
