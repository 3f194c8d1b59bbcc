package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katadirect/katadirect/pkg/agent/container"
	"github.com/katadirect/katadirect/pkg/agent/device"
	"github.com/katadirect/katadirect/pkg/agent/storage"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

func TestNewsOfKilledProcessesWaitForAShimThatAsks(t *testing.T) {
	s := New(nil, &storage.Mounts{}, nil)
	s.reportOOM("first")
	if id, err := s.NextOOM(t.Context()); err != nil || id != "first" {
		t.Errorf("%q, %v", id, err)
	}
	// Nobody asks for long: the newest are kept, and nobody is held up.
	for i := range 3 * oomEvents {
		s.reportOOM(fmt.Sprint(i))
	}
	if id, err := s.NextOOM(t.Context()); err != nil || id != fmt.Sprint(2*oomEvents) {
		t.Errorf("oldest that was kept: %q, %v", id, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	for range oomEvents - 1 {
		if _, err := s.NextOOM(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.NextOOM(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no more news: %v", err)
	}
}

func TestTheEndOfTheSandboxEndsTheWait(t *testing.T) {
	s := New(nil, &storage.Mounts{}, nil)
	waited := make(chan error, 1)
	go func() { _, err := s.NextOOM(context.Background()); waited <- err }()
	if err := s.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; !errors.Is(err, ErrState) {
		t.Errorf("%v, want ErrState", err)
	}
	if err := s.Destroy(t.Context()); err != nil {
		t.Errorf("a second time: %v", err)
	}
	if err := s.Create(t.Context(), &agentproto.CreateSandboxRequest{}); !errors.Is(err, ErrState) {
		t.Errorf("a new sandbox after the end: %v, want ErrState", err)
	}
	if err := s.CreateContainer(t.Context(), &agentproto.CreateContainerRequest{ContainerId: "c1"}); !errors.Is(err, ErrState) {
		t.Errorf("a container after the end: %v, want ErrState", err)
	}
}

func TestTheGuestsDeviceTakesThePlaceOfTheHosts(t *testing.T) {
	mode, uid := fs.FileMode(0o600), uint32(7)
	linux := &specs.Linux{
		Devices:   []specs.LinuxDevice{{Path: "/dev/xvda", Type: "c", Major: 8, Minor: 77, FileMode: &mode, UID: &uid}},
		Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
	}
	disk := device.Disk{Name: "vdb", Major: 254, Minor: 16}
	for _, d := range []struct {
		path    string
		options []string
	}{{"/dev/xvda", nil}, {"/dev/new", []string{"other=x", optionAccess + "r"}}} {
		access, err := accessOf(d.options)
		if err != nil {
			t.Fatal(err)
		}
		setDevice(linux, d.path, disk, access)
	}
	for _, nonsense := range []string{"", "x", "rw "} {
		if access, err := accessOf([]string{optionAccess + nonsense}); !errors.Is(err, container.ErrSpec) {
			t.Errorf("%q gives %q, %v", nonsense, access, err)
		}
	}
	if d := linux.Devices[0]; d.Type != "b" || d.Major != 254 || d.Minor != 16 || d.FileMode != &mode || d.UID != &uid {
		t.Errorf("%+v", d)
	}
	if d := linux.Devices[1]; len(linux.Devices) != 2 || d.Path != "/dev/new" || d.Major != 254 || *d.FileMode != 0o660 {
		t.Errorf("%+v", linux.Devices)
	}
	rules := linux.Resources.Devices
	if len(rules) != 3 || !rules[1].Allow || *rules[1].Major != 254 || *rules[1].Minor != 16 || rules[1].Access != "rwm" ||
		rules[2].Access != "r" {
		t.Errorf("rules %+v", rules)
	}
}

func TestContainersNeedASandbox(t *testing.T) {
	s := New(nil, &storage.Mounts{}, nil)
	if err := s.CreateContainer(t.Context(), &agentproto.CreateContainerRequest{ContainerId: "c1"}); !errors.Is(err, ErrState) {
		t.Errorf("%v, want ErrState", err)
	}
	if err := s.CreateContainer(t.Context(), &agentproto.CreateContainerRequest{ContainerId: "../x"}); !errors.Is(err, container.ErrID) {
		t.Errorf("%v, want ErrID", err)
	}
	if err := s.RemoveContainer(t.Context(), "c1"); !errors.Is(err, ErrNoContainer) {
		t.Errorf("%v, want ErrNoContainer", err)
	}
	if _, err := os.Lstat(namespaceDir); err == nil {
		t.Error("namespaces were made without a sandbox")
	}
}
