package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// EnvFile is the environment variable that may choose one of DefaultFiles.
const EnvFile = "KATA_CONF_FILE"

// DropIns is the folder beside the file whose *.toml files override it, in name order.
const DropIns = "config.d"

// DefaultFiles are Kata's places for the file, the first that exists is taken.
func DefaultFiles() []string {
	return []string{
		"/etc/kata-containers/configuration.toml",
		"/usr/share/defaults/kata-containers/configuration.toml",
	}
}

// maxFileBytes is far above any real file: Kata's own, all comments included, has 30 KiB.
const maxFileBytes = 1 << 20

// Load reads the file that path names (the ConfigPath of the runtime options) or, if it is empty, the one that
// Kata's search order finds, and then its drop-ins. With no path and no file the result is Default. Keys that mean
// nothing here are named in one warning.
func Load(path string, log *slog.Logger) (Config, error) {
	return load(path, DefaultFiles(), os.Getenv(EnvFile), log)
}

func load(path string, defaults []string, env string, log *slog.Logger) (Config, error) {
	file, err := find(path, defaults, env)
	if err != nil {
		return Config{}, err
	}
	if file == "" {
		return Default(), nil
	}
	files, err := withDropIns(file)
	if err != nil {
		return Config{}, err
	}
	var doc document
	var ignored []string
	for _, f := range files {
		unknown, err := doc.read(f)
		if err != nil {
			return Config{}, err
		}
		ignored = append(ignored, unknown...)
	}
	slices.Sort(ignored)
	if ignored = slices.Compact(ignored); len(ignored) > 0 {
		log.Warn("configuration keys that have no effect here", "file", file, "keys", strings.Join(ignored, " "))
	}
	c, err := doc.config(log)
	if err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w", file, err)
	}
	c.Path = file
	return c, nil
}

// find returns the file to read, "" when there is none and none was asked for.
func find(path string, defaults []string, env string) (string, error) {
	if path != "" {
		file, err := filepath.EvalSymlinks(path)
		if err != nil {
			return "", fmt.Errorf("configuration %s, named by the runtime's options: %w", path, err)
		}
		return file, nil
	}
	var found []string
	for _, d := range defaults {
		file, err := filepath.EvalSymlinks(d)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("configuration: %w", err)
		}
		found = append(found, file)
	}
	if len(found) == 0 {
		return "", nil
	}
	// The variable comes from whoever started containerd; Kata lets it choose among the known files only.
	if file, err := filepath.EvalSymlinks(env); env != "" && err == nil && slices.Contains(found, file) {
		return file, nil
	}
	return found[0], nil
}

func withDropIns(file string) ([]string, error) {
	dir := filepath.Join(filepath.Dir(file), DropIns)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return []string{file}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("configuration drop-ins: %w", err)
	}
	files := []string{file}
	for _, e := range entries { // in name order
		if !e.IsDir() && filepath.Ext(e.Name()) == ".toml" {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	return files, nil
}

// read decodes one file over what earlier ones said and returns the keys it does not know.
func (d *document) read(file string) (unknown []string, err error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxFileBytes {
		return nil, fmt.Errorf("configuration %s: not a regular file of at most %d bytes", file, maxFileBytes)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	defer func() { _ = f.Close() }()

	err = toml.NewDecoder(f).DisallowUnknownFields().Decode(d)
	var strict *toml.StrictMissingError
	var wrong *toml.DecodeError
	switch {
	case errors.As(err, &strict): // everything known has been decoded all the same
		for _, e := range strict.Errors {
			unknown = append(unknown, strings.Join(e.Key(), "."))
		}
		return unknown, nil
	case errors.As(err, &wrong):
		row, _ := wrong.Position()
		return nil, fmt.Errorf("configuration %s, line %d: %w", file, row, err)
	case err != nil:
		return nil, fmt.Errorf("configuration %s: %w", file, err)
	}
	return nil, nil
}
