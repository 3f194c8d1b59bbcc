package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/katadirect/katadirect/internal/image"
)

// writeTree writes the layers' files into a folder, which must be empty or not there.
func writeTree(dir string, layers []image.Files) error {
	found, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(found) > 0 {
		return fmt.Errorf("%s is not empty", dir)
	}
	for _, files := range layers {
		for _, name := range slices.Sorted(maps.Keys(files)) {
			if err := writeFile(filepath.Join(dir, name), files[name]); err != nil {
				return err
			}
		}
	}
	return nil
}

func writeFile(path string, file image.File) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	mode := os.FileMode(file.Mode & 0o777)
	if file.Mode&0o1000 != 0 {
		mode |= os.ModeSticky
	}
	switch {
	case file.Link != "":
		return os.Symlink(file.Link, path)
	case file.Dir:
		return errors.Join(os.MkdirAll(path, 0o755), os.Chmod(path, mode))
	}
	// The umask has no say.
	return errors.Join(os.WriteFile(path, file.Content, mode), os.Chmod(path, mode))
}
