// Package durable writes files so that they are either there whole, or not at all, after a crash or a power cut.
package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// TempPattern is how the temporary files of WriteFile begin; whoever owns a folder may delete what a crash left.
const TempPattern = ".tmp-"

// WriteFile replaces path by data: temporary file beside it, fsync, rename, fsync of the folder. Readers see the
// old content or the new, never a part. The temporary file is gone when it returns, whatever happened.
func WriteFile(path string, data []byte, mode os.FileMode) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, TempPattern)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", path, err), ignoreMissing(os.Remove(f.Name())))
		}
	}()
	if err := fill(f, data, mode); err != nil {
		return err
	}
	return Rename(f.Name(), path)
}

func fill(f *os.File, data []byte, mode os.FileMode) error {
	_, err := f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// Rename renames and makes the new name durable. Both paths lie on one file system; when their folders differ, the
// loss of the old name is made durable too.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	if err := SyncDir(filepath.Dir(to)); err != nil {
		return err
	}
	if filepath.Dir(from) == filepath.Dir(to) {
		return nil
	}
	return SyncDir(filepath.Dir(from))
}

// SyncDir makes the names in dir durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
