package directvolume

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Where sandboxes live, and the names in a sandbox's folder.
const (
	DefaultGoDir   = "/run/vc/sbs" // Kata's Go shim, and ours
	DefaultRustDir = "/run/kata"   // Kata's Rust shim (runtime-rs)

	socketName = "shim-monitor.sock"
	leaseName  = "lease"
)

// Sandboxes knows the folders in which the shims of this host keep their sandboxes. The zero value is the real
// host; tests set other folders. It has no state and may be copied.
type Sandboxes struct {
	// GoDir holds <id>/shim-monitor.sock and <id>/lease. "" is DefaultGoDir.
	GoDir string
	// RustDir holds <id>/shim-monitor.sock of Kata's Rust shim. "" is DefaultRustDir.
	RustDir string
	// ProcDir is the proc file system. "" is /proc.
	ProcDir string
}

// Dir is the sandbox's folder in the Go layout, where lease and socket are.
func (s Sandboxes) Dir(id string) string { return filepath.Join(orDefault(s.GoDir, DefaultGoDir), id) }

// SocketPath is where our shim, like Kata's Go shim, serves the management socket of the sandbox.
func (s Sandboxes) SocketPath(id string) string { return filepath.Join(s.Dir(id), socketName) }

// LeasePath is the file that is locked exactly while the sandbox lives. See AcquireLease.
func (s Sandboxes) LeasePath(id string) string { return filepath.Join(s.Dir(id), leaseName) }

func (s Sandboxes) rustSocketPath(id string) string {
	return filepath.Join(orDefault(s.RustDir, DefaultRustDir), id, socketName)
}

// SocketPath is Sandboxes.SocketPath on the real host.
func SocketPath(id string) string { return Sandboxes{}.SocketPath(id) }

// LeasePath is Sandboxes.LeasePath on the real host.
func LeasePath(id string) string { return Sandboxes{}.LeasePath(id) }

// Alive reports whether the sandbox still has, or may still have, the volumes it claims.
//
// A lease decides alone: it is locked while the shim or the machine lives, however the other one died. Other
// runtimes have none. Theirs is alive when its management socket accepts, and also when a process on the host names
// the sandbox: Kata's shim claims shortly before it listens, and its machine outlives a shim that was killed.
// When something cannot be found out the answer is true, because a wrong "dead" lets two machines destroy one file
// system, and a wrong "alive" only makes a call fail that will be retried.
func (s Sandboxes) Alive(id string) bool {
	if CheckSandboxID(id) != nil {
		return false
	}
	if held, exists := leaseHeld(s.LeasePath(id)); exists {
		return held
	}
	return accepts(s.SocketPath(id)) || accepts(s.rustSocketPath(id)) || processNames(orDefault(s.ProcDir, "/proc"), id)
}

// accepts reports whether somebody listens on the socket. Only an error that proves the opposite is taken for "no".
func accepts(socket string) bool {
	conn, err := net.DialTimeout("unix", socket, time.Second)
	if err == nil {
		conn.Close()
		return true
	}
	for _, nobody := range []error{syscall.ENOENT, syscall.ECONNREFUSED, syscall.ENOTDIR, syscall.ENOTSOCK} {
		if errors.Is(err, nobody) {
			return false
		}
	}
	return true
}

// Find returns the id of the one living sandbox of this host whose id begins with prefix.
//
// ErrInvalidSandbox for what cannot begin one, ErrNoSandbox for none; ErrAmbiguous for several.
func (s Sandboxes) Find(prefix string) (string, error) {
	if err := CheckSandboxID(prefix); err != nil {
		return "", err
	}
	var found []string
	for _, dir := range []string{orDefault(s.GoDir, DefaultGoDir), orDefault(s.RustDir, DefaultRustDir)} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("look for sandboxes: %w", err)
		}
		for _, e := range entries {
			if id := e.Name(); strings.HasPrefix(id, prefix) && !slices.Contains(found, id) && s.Alive(id) {
				if id == prefix {
					return id, nil
				}
				found = append(found, id)
			}
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("%w has an id that begins with %q", ErrNoSandbox, prefix)
	case 1:
		return found[0], nil
	}
	slices.Sort(found)
	return "", fmt.Errorf("%w: %q may be %s", ErrAmbiguous, prefix, strings.Join(found[:min(len(found), 5)], " "))
}

// CheckSandboxID returns an ErrInvalidSandbox unless id can be the name of a claim: 1 to 128 letters, digits, "_",
// "-" and ".", the first of them a letter or digit, and not the record's own name.
func CheckSandboxID(id string) error {
	valid := len(id) > 0 && len(id) <= 128 && id != recordName
	for i, c := range []byte(id) {
		letterOrDigit := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		valid = valid && (letterOrDigit || i > 0 && (c == '_' || c == '-' || c == '.'))
	}
	if !valid {
		return fmt.Errorf("%w: %q", ErrInvalidSandbox, id)
	}
	return nil
}

func orDefault(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}
