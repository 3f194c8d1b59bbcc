package images

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/katadirect/katadirect/internal/image"
)

// libraryDirs are where Debian has libraries.
var libraryDirs = []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib"}

// hostProgram is a program of the host's with its loader and every library that it is linked with.
func hostProgram(path string) (image.Files, error) {
	files := image.Files{}
	return files, addProgram(files, path, path)
}

func addProgram(files image.Files, as, path string) error {
	if _, ok := files[as[1:]]; ok {
		return nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	files[as[1:]] = image.Program(content)
	program, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer program.Close()
	needed, err := program.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, library := range needed {
		found, err := findLibrary(library)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if err := addProgram(files, "/usr/lib/x86_64-linux-gnu/"+library, found); err != nil {
			return err
		}
	}
	if interp := program.Section(".interp"); interp != nil {
		loader, err := interp.Data()
		if err != nil {
			return err
		}
		name := string(loader[:len(loader)-1])
		return addProgram(files, name, name)
	}
	return nil
}

func findLibrary(name string) (string, error) {
	for _, dir := range libraryDirs {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		} else if !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
	}
	return "", fmt.Errorf("library %s is in none of %v", name, libraryDirs)
}
