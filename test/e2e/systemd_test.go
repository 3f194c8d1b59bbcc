package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/katadirect/katadirect/internal/cluster"
)

// systemd stands in for the node's systemd, which there is none of here: on a real bus, in the place where a host has it,
// it answers what is asked of it to restart a service, and restarts the cluster's containerd.
type systemd struct {
	k    *kube
	conn *dbus.Conn

	mu    sync.Mutex
	units []string
}

const (
	systemdPath    = dbus.ObjectPath("/org/freedesktop/systemd1")
	systemdManager = "org.freedesktop.systemd1.Manager"
)

func (s *systemd) restarted() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.units)
}

func (s *systemd) Subscribe() *dbus.Error             { return nil }
func (s *systemd) ResetFailedUnit(string) *dbus.Error { return nil }

func (s *systemd) RestartUnit(unit, _ string) (dbus.ObjectPath, *dbus.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.units = append(s.units, unit)
	number := uint32(len(s.units))
	job := dbus.ObjectPath(fmt.Sprintf("%s/job/%d", systemdPath, number))
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		result := "done"
		err := s.k.Stop(ctx, cluster.Containerd)
		if err == nil {
			err = s.k.Again(ctx, cluster.Containerd, "")
		}
		if err != nil {
			result = "failed"
			s.k.t.Log(err)
		}
		_ = s.conn.Emit(systemdPath, systemdManager+".JobRemoved", number, job, unit, result)
	}()
	return job, nil
}

// unitState says that the unit runs.
type unitState struct{}

func (unitState) Get(_, _ string) (dbus.Variant, *dbus.Error) { return dbus.MakeVariant("active"), nil }

func newSystemd(t *testing.T, k *kube) *systemd {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/root/run/dbus", k.InitPID())
	socket := filepath.Join(dir, "system_bus_socket")
	settings := filepath.Join(t.TempDir(), "bus.conf")
	text := `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=` + socket + `</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/></policy></busconfig>`
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(settings, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command("dbus-daemon", "--nofork", "--nosyslog", "--config-file="+settings)
	daemon.Stderr = os.Stderr
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = daemon.Process.Kill()
		_ = daemon.Wait()
		_ = os.RemoveAll(dir)
	})
	s := &systemd{k: k}
	var err error
	for deadline := time.Now().Add(busPatience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if s.conn, err = dbus.Connect("unix:path=" + socket); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.conn.Close() })
	if err := s.conn.Export(s, systemdPath, systemdManager); err != nil {
		t.Fatal(err)
	}
	if err := s.conn.Export(unitState{}, systemdPath+"/unit/containerd_2eservice", "org.freedesktop.DBus.Properties"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.conn.RequestName("org.freedesktop.systemd1", dbus.NameFlagDoNotQueue); err != nil {
		t.Fatal(err)
	}
	return s
}
