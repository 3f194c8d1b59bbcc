package restart

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// ErrNoUnit is returned when none of the units runs.
var ErrNoUnit = errors.New("no such service runs on the host")

// Systemd restarts the first of some units that is active. It speaks to the host's systemd over D-Bus.
type Systemd struct {
	// Units are tried in order: "containerd.service".
	Units []string
	// Own is systemd's own socket and Bus that of the system bus, as this program sees them. The first that answers is
	// used: not every host has a bus.
	Own, Bus string
}

func (s Systemd) String() string { return "systemd: " + strings.Join(s.Units, " or ") }

// Restart restarts the unit and waits for systemd's word that it is done.
func (s Systemd) Restart(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	defer func() {
		// The connection ends with ctx, and whoever calls over it then may hear of no more than that.
		if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w: %w", cause, err)
		}
	}()
	conn, err := s.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	unit, err := s.active(ctx, conn)
	if err != nil {
		return err
	}
	// A service that has failed too often within a short time would not be started again.
	_ = conn.ResetFailedUnitContext(ctx, unit)
	done := make(chan string, 1)
	if _, err := conn.RestartUnitContext(ctx, unit, "replace", done); err != nil {
		return fmt.Errorf("restart %s: %w", unit, err)
	}
	select {
	case result := <-done:
		if result != "done" {
			return fmt.Errorf("restart %s: systemd says %q; see journalctl -u %s on the node", unit, result, unit)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("restart %s: systemd is not done with it: %w", unit, ctx.Err())
	}
}

// Find says which unit would be restarted.
func (s Systemd) Find(ctx context.Context) (string, error) {
	conn, err := s.dial(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return s.active(ctx, conn)
}

// active is the first unit that runs. One that has failed counts: its configuration may be what is being put right.
func (s Systemd) active(ctx context.Context, conn *systemd.Conn) (string, error) {
	var states []string
	for _, unit := range s.Units {
		property, err := conn.GetUnitPropertyContext(ctx, unit, "ActiveState")
		if err != nil {
			return "", fmt.Errorf("ask systemd for %s: %w", unit, err)
		}
		state, _ := property.Value.Value().(string)
		switch state {
		case "active", "activating", "reloading", "failed":
			return unit, nil
		}
		states = append(states, unit+" is "+state)
	}
	return "", fmt.Errorf("%w: %s", ErrNoUnit, strings.Join(states, ", "))
}

func (s Systemd) dial(ctx context.Context) (*systemd.Conn, error) {
	conn, ownErr := systemd.NewConnection(func() (*dbus.Conn, error) { return open(ctx, s.Own, false) })
	if ownErr == nil {
		return conn, nil
	}
	conn, busErr := systemd.NewConnection(func() (*dbus.Conn, error) { return open(ctx, s.Bus, true) })
	if busErr == nil {
		return conn, nil
	}
	return nil, fmt.Errorf("there is no systemd to restart the container runtime, say how with --restart-command: %w; %w", ownErr, busErr)
}

// open connects to a socket. A bus wants a greeting, systemd's own socket does not take one.
func open(ctx context.Context, socket string, isBus bool) (*dbus.Conn, error) {
	conn, err := dbus.Dial("unix:path="+escape(socket), dbus.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", socket, err)
	}
	err = conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Getuid()))})
	if err == nil && isBus {
		err = conn.Hello()
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("%s: %w", socket, err)
	}
	return conn, nil
}

// escape writes a path as D-Bus addresses want it.
func escape(path string) string {
	var out strings.Builder
	for _, c := range []byte(path) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_/.\\*", c) >= 0 {
			out.WriteByte(c)
		} else {
			fmt.Fprintf(&out, "%%%02x", c)
		}
	}
	return out.String()
}
