package hostfs

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// maxText bounds what is read of a configuration.
const maxText = 4 << 20

// ReadFile reads a configuration file and its mode. Links are followed. What is no regular file, or larger than any
// configuration, is an error.
func (r *Root) ReadFile(hostPath string) ([]byte, os.FileMode, error) {
	f, err := r.OpenFile(hostPath)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxText+1))
	if err == nil && len(text) > maxText {
		err = fmt.Errorf("%s has over %d bytes: that is no configuration", hostPath, maxText)
	}
	return text, info.Mode().Perm(), err
}

// OpenFile opens a regular file for reading.
func (r *Root) OpenFile(hostPath string) (*os.File, error) {
	f, err := r.openat2(hostPath, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		_ = f.Close()
		return nil, fmt.Errorf("%s: %w", hostPath, ErrLink)
	}
	return f, nil
}
