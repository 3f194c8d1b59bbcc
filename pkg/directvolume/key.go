package directvolume

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxKeyBytes is the longest path whose base64 name (252 bytes) fits in a file name of 255.
const maxKeyBytes = 189

// EncodeKey returns the name of the record folder for a path: URL-safe base64 with padding, as Kata does it.
// It encodes the bytes as they are; Store resolves symbolic links first.
func EncodeKey(volumePath string) string {
	return base64.URLEncoding.EncodeToString([]byte(volumePath))
}

// DecodeKey returns the path that a record folder's name stands for. It accepts exactly what EncodeKey makes of a
// path that a record may have, so every accepted name is the only one for its path.
func DecodeKey(name string) (string, error) {
	decoded, err := base64.URLEncoding.Strict().DecodeString(name)
	if err != nil || strings.ContainsAny(name, "\r\n") { // the decoder skips line ends
		return "", fmt.Errorf("%w: %q is not the name of a record", ErrInvalidKey, name)
	}
	volumePath := string(decoded)
	if err := checkKey(volumePath); err != nil {
		return "", err
	}
	return volumePath, nil
}

// checkKey refuses paths that cannot or must not have a record.
func checkKey(volumePath string) error {
	switch {
	case volumePath == "":
		return fmt.Errorf("%w: it is empty", ErrInvalidKey)
	case !strings.HasPrefix(volumePath, "/"):
		return fmt.Errorf("%w: %q is not absolute", ErrInvalidKey, volumePath)
	case strings.ContainsRune(volumePath, 0):
		return fmt.Errorf("%w: %q has a NUL in it", ErrInvalidKey, volumePath)
	case slices.Contains(strings.Split(volumePath, "/"), ".."):
		return fmt.Errorf("%w: %q has \"..\" in it", ErrInvalidKey, volumePath)
	case filepath.Clean(volumePath) == "/":
		return fmt.Errorf("%w: \"/\" cannot be a volume", ErrInvalidKey)
	}
	return checkKeyLength(volumePath)
}

func checkKeyLength(volumePath string) error {
	if len(volumePath) > maxKeyBytes {
		return fmt.Errorf("%w: it is %d bytes long, and the name of a record can hold %d; "+
			"a shorter kubelet root directory or PersistentVolume name helps: %s",
			ErrInvalidKey, len(volumePath), maxKeyBytes, volumePath)
	}
	return nil
}

// recordNames are the folder names under which a path's record may stand.
type recordNames struct {
	// resolved is where we write: the path without symbolic links.
	resolved string
	// literal is the path as given, where Kata's tools write and look; the same as resolved for most.
	literal string
}

func (n recordNames) differ() bool { return n.resolved != n.literal }

func namesFor(volumePath string) (recordNames, error) {
	if err := checkKey(volumePath); err != nil {
		return recordNames{}, err
	}
	resolved, err := resolve(filepath.Clean(volumePath))
	if err != nil {
		return recordNames{}, err
	}
	if err := checkKeyLength(resolved); err != nil {
		return recordNames{}, err
	}
	return recordNames{resolved: EncodeKey(resolved), literal: EncodeKey(volumePath)}, nil
}

// resolve replaces the symbolic links in a clean absolute path. What does not exist yet stays as it is written:
// kubelet names a target path before the folder is made, and after it is gone.
func resolve(clean string) (string, error) {
	rest := ""
	for dir := clean; ; {
		err := openPlain(dir)
		if err == nil {
			return filepath.Join(dir, rest), nil
		}
		// Of a path with a link in it the kernel would have said so: what is before the missing part has none.
		if errors.Is(err, unix.ENOENT) && dir != "/" {
			rest = filepath.Join(filepath.Base(dir), rest)
			dir = filepath.Dir(dir)
			continue
		}
		real, err := filepath.EvalSymlinks(dir)
		if err == nil {
			return filepath.Join(real, rest), nil
		}
		// A loop of links comes as a plain error, everything else as a PathError.
		if pathErr := (*fs.PathError)(nil); !errors.As(err, &pathErr) ||
			errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ENAMETOOLONG) {
			return "", fmt.Errorf("%w: %s: %w", ErrInvalidKey, clean, err)
		}
		if !errors.Is(err, fs.ErrNotExist) || dir == "/" {
			return "", fmt.Errorf("resolve symbolic links of %s: %w", clean, err)
		}
		rest = filepath.Join(filepath.Base(dir), rest)
		dir = filepath.Dir(dir)
	}
}

// openPlain returns nil if a path is there and has no symbolic link in it, and ENOENT if there is none in the part of it
// that is there. It is the kernel's word in two system calls, where EvalSymlinks needs one for each folder on the way.
// After any other error EvalSymlinks finds out why.
func openPlain(clean string) error {
	fd, err := unix.Openat2(unix.AT_FDCWD, clean, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return err
	}
	return unix.Close(fd)
}
