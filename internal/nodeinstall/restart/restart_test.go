package restart_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/katadirect/katadirect/internal/nodeinstall/restart"
)

func TestACommandIsRunWithoutAShell(t *testing.T) {
	made := filepath.Join(t.TempDir(), "made")
	command, err := restart.ParseCommand("touch " + made)
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(made); err != nil {
		t.Error(err)
	}
	failing, _ := restart.ParseCommand("ls /no/such/folder")
	if err := failing.Restart(t.Context()); err == nil || !strings.Contains(err.Error(), "/no/such/folder") {
		t.Errorf("a command that fails: %v", err)
	}
	if err := (restart.Command{}).Restart(t.Context()); err == nil {
		t.Error("no command at all restarts something")
	}
	for _, line := range []string{`sh -c "x"`, "a;b", "a | b", "a $B"} {
		if _, err := restart.ParseCommand(line); err == nil {
			t.Errorf("%s is taken, and would not be what it looks like", line)
		}
	}
}

// A command may start the runtime itself, which keeps the command's output open.
func TestACommandThatLeavesSomethingRunningIsNotWaitedForTwice(t *testing.T) {
	script := filepath.Join(t.TempDir(), "start")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nsleep 20 &\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := (restart.Command{script}).Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if time.Since(start) > 15*time.Second {
		t.Error("it was waited for the runtime's end")
	}
}

// standIn does on a real bus what systemd does: the states of units, and a job that ends with a signal. There is no
// systemd where the tests run, so what is tested is this side of the conversation.
type standIn struct {
	conn   *dbus.Conn
	states map[string]string
	result string

	mu        sync.Mutex
	restarted []string
}

const (
	manager = dbus.ObjectPath("/org/freedesktop/systemd1")
	iface   = "org.freedesktop.systemd1.Manager"
)

func (s *standIn) Subscribe() *dbus.Error             { return nil }
func (s *standIn) ResetFailedUnit(string) *dbus.Error { return nil }

func (s *standIn) RestartUnit(unit, mode string) (dbus.ObjectPath, *dbus.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.states[unit] == "" {
		return "", dbus.NewError("org.freedesktop.systemd1.NoSuchUnit", []any{"Unit " + unit + " not found."})
	}
	s.restarted = append(s.restarted, unit+" "+mode)
	number := uint32(len(s.restarted))
	job := dbus.ObjectPath(fmt.Sprintf("/org/freedesktop/systemd1/job/%d", number))
	if s.result != "" {
		time.AfterFunc(50*time.Millisecond, func() {
			_ = s.conn.Emit(manager, iface+".JobRemoved", number, job, unit, s.result)
		})
	}
	return job, nil
}

// properties answers for the unit whose name is in its path, as systemd writes it.
type properties struct {
	s    *standIn
	unit string
}

func (p properties) Get(_, name string) (dbus.Variant, *dbus.Error) {
	state := p.s.states[p.unit]
	if state == "" {
		state = "inactive"
	}
	return dbus.MakeVariant(state), nil
}

// bus runs a bus of the test's own, with the stand-in on it, and returns its socket.
func bus(t *testing.T, s *standIn) string {
	t.Helper()
	dir := t.TempDir()
	socket, config := filepath.Join(dir, "bus"), filepath.Join(dir, "bus.conf")
	settings := `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=` + socket + `</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/></policy></busconfig>`
	if err := os.WriteFile(config, []byte(settings), 0o644); err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command("dbus-daemon", "--nofork", "--nosyslog", "--config-file="+config)
	daemon.Stderr = os.Stderr
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = daemon.Process.Kill()
		_ = daemon.Wait()
	})
	var err error
	for range 3000 { // a minute
		if s.conn, err = dbus.Connect("unix:path=" + socket); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.conn.Close() })
	err = s.conn.Export(s, manager, iface)
	for _, unit := range []string{"k3s.service", "k3s-agent.service", "containerd.service"} {
		place := manager + dbus.ObjectPath("/unit/"+strings.NewReplacer(".", "_2e", "-", "_2d").Replace(unit))
		err = errors.Join(err, s.conn.Export(properties{s, unit}, place, "org.freedesktop.DBus.Properties"))
	}
	_, nameErr := s.conn.RequestName("org.freedesktop.systemd1", dbus.NameFlagDoNotQueue)
	if err := errors.Join(err, nameErr); err != nil {
		t.Fatal(err)
	}
	return socket
}

func TestSystemdRestartsTheUnitThatRuns(t *testing.T) {
	for name, test := range map[string]struct {
		states map[string]string
		result string
		want   string
		says   string
	}{
		"agent":        {map[string]string{"k3s-agent.service": "active"}, "done", "k3s-agent.service replace", ""},
		"server first": {map[string]string{"k3s.service": "active", "k3s-agent.service": "active"}, "done", "k3s.service replace", ""},
		"has failed":   {map[string]string{"k3s.service": "failed"}, "done", "k3s.service replace", ""},
		"does not run": {map[string]string{"k3s.service": "inactive"}, "done", "", "no such service"},
		"job fails":    {map[string]string{"k3s.service": "active"}, "failed", "k3s.service replace", "journalctl -u k3s.service"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &standIn{states: test.states, result: test.result}
			r := restart.Systemd{Units: []string{"k3s.service", "k3s-agent.service"}, Own: "/no/such/socket", Bus: bus(t, s)}
			err := r.Restart(t.Context())
			if (test.says == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v; want %q", err, test.says)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if test.want == "" && len(s.restarted) > 0 || test.want != "" && !slices.Equal(s.restarted, []string{test.want}) {
				t.Errorf("restarted %q, want %q", s.restarted, test.want)
			}
		})
	}
}

func TestARestartThatNeverEndsIsGivenUp(t *testing.T) {
	s := &standIn{states: map[string]string{"containerd.service": "active"}}
	r := restart.Systemd{Units: []string{"containerd.service"}, Own: "/no/such/socket", Bus: bus(t, s)}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := r.Restart(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

func TestAHostWithoutSystemdSaysWhatToDo(t *testing.T) {
	err := restart.Systemd{Units: []string{"x.service"}, Own: "/no/own", Bus: "/no/bus"}.Restart(t.Context())
	if err == nil || !strings.Contains(err.Error(), "--restart-command") || !strings.Contains(err.Error(), "/no/own") {
		t.Errorf("%v", err)
	}
}
