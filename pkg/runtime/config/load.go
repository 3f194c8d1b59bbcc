package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"golang.org/x/sys/unix"
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

// maxDropIns is far above what anybody has.
const maxDropIns = 256

// Load reads the file that path names (the ConfigPath of the runtime options) or, if it is empty, the one that
// Kata's search order finds, and then its drop-ins. With no path and no file the result is Default. Errors name the
// file, the line and the key.
func Load(path string) (Config, error) {
	return load(path, DefaultFiles(), os.Getenv(EnvFile))
}

func load(path string, defaults []string, env string) (Config, error) {
	file, err := find(path, defaults, env)
	if err != nil {
		return Config{}, err
	}
	if file == "" {
		return Default(), nil
	}
	files, others, err := withDropIns(file)
	if err != nil {
		return Config{}, err
	}
	var doc document
	var unknown []string
	where := make(places)
	for _, f := range files {
		text, err := readFile(f)
		if err != nil {
			return Config{}, err
		}
		more, err := doc.read(f, text)
		if err != nil {
			return Config{}, err
		}
		where.note(f, text)
		unknown = append(unknown, more...)
	}
	if err := doc.refuse(); err != nil {
		return Config{}, where.locate(file, err)
	}
	c, err := doc.config()
	if err != nil {
		return Config{}, where.locate(file, err)
	}
	c.Path = file
	c.notice(unknown, others)
	return c, nil
}

// notice puts into words what was left aside: keys that nobody knows, and files that are no drop-ins. Kata's own keys
// are not worth a word.
func (c *Config) notice(keys, files []string) {
	slices.Sort(keys)
	keys = slices.DeleteFunc(slices.Compact(keys), isUnused)
	if len(keys) > 0 {
		c.Notices = append(c.Notices, fmt.Sprintf("configuration %s: keys that have no effect here: %s", c.Path, strings.Join(keys, " ")))
	}
	if len(files) > 0 { // Kata reads them all, backups of editors too
		c.Notices = append(c.Notices, fmt.Sprintf("configuration %s: only drop-ins that end in .toml are read, not: %s",
			filepath.Join(filepath.Dir(c.Path), DropIns), strings.Join(files, " ")))
	}
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
			return "", fmt.Errorf("configuration %s: %w", d, err)
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

// withDropIns returns the file and its drop-ins, in the order in which they count, and the names of what else is there.
func withDropIns(file string) (files, others []string, err error) {
	dir := filepath.Join(filepath.Dir(file), DropIns)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return []string{file}, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("configuration drop-ins: %w", err)
	}
	files = []string{file}
	for _, e := range entries { // in name order
		if filepath.Ext(e.Name()) == ".toml" {
			files = append(files, filepath.Join(dir, e.Name()))
		} else {
			others = append(others, e.Name())
		}
	}
	if len(files) > maxDropIns {
		return nil, nil, fmt.Errorf("configuration %s: more than %d drop-ins", dir, maxDropIns)
	}
	return files, others, nil
}

// readFile reads a regular file of a size that can be meant. It neither waits for a fifo nor fills the memory.
func readFile(file string) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", file, errors.Unwrap(err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", file, errors.Unwrap(err))
	}
	if !info.Mode().IsRegular() || info.Size() > maxFileBytes {
		return nil, fmt.Errorf("configuration %s: not a regular file of at most %d bytes", file, maxFileBytes)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFileBytes))
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", file, err)
	}
	return text, nil
}

// read decodes one file over what earlier ones said and returns the keys it does not know.
func (d *document) read(file string, text []byte) (unknown []string, err error) {
	err = toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(d)
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
		if key := strings.Join(wrong.Key(), "."); key != "" && !strings.Contains(err.Error(), key) {
			err = fmt.Errorf("%s: %w", key, err)
		}
		return nil, fmt.Errorf("configuration %s, line %d: %w", file, row, err)
	case err != nil:
		return nil, fmt.Errorf("configuration %s: %w", file, err)
	}
	return nil, nil
}
