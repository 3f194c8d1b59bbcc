package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/agentclient"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

var errInjected = errors.New("injected")

// machine keeps count of what is plugged in and fails when told to.
type machine struct {
	plugged   map[string]vm.Disk
	sizes     map[string]int64
	plugs     int
	failPlug  bool // after having plugged it in, like a call that was cut short
	failUnplg bool
	failSize  error
	limits    map[string]vm.DiskLimits
	faults    vm.DiskFaults

	failThrottle error
	copy         *copying
	copiedTo     string
	onResize     func() // called before the disk has its new size
}

func (m *machine) PlugDisk(ctx context.Context, d vm.Disk) (vm.DiskAddress, error) {
	if _, ok := m.plugged[d.ID]; ok {
		return vm.DiskAddress{}, fmt.Errorf("disk %s twice: %w", d.ID, vm.ErrInUse)
	}
	m.plugs++
	m.plugged[d.ID] = d
	if m.failPlug {
		return vm.DiskAddress{}, errInjected
	}
	return vm.DiskAddress{Driver: "blk", Source: fmt.Sprintf("02/%02x", m.plugs)}, ctx.Err()
}

func (m *machine) UnplugDisk(_ context.Context, id string) error {
	if m.failUnplg {
		return errInjected
	}
	delete(m.plugged, id)
	return nil
}

func (m *machine) ResizeDisk(_ context.Context, id string, sizeBytes int64) error {
	if m.failSize != nil {
		return m.failSize
	}
	if m.onResize != nil {
		m.onResize()
	}
	if sizeBytes < m.sizes[id] {
		return vm.ErrShrink
	}
	m.sizes[id] = sizeBytes
	return nil
}

func (m *machine) ThrottleDisk(_ context.Context, id string, limits vm.DiskLimits) error {
	if m.failThrottle != nil {
		return m.failThrottle
	}
	if _, ok := m.plugged[id]; !ok {
		return vm.ErrNotFound
	}
	if m.limits == nil {
		m.limits = map[string]vm.DiskLimits{}
	}
	m.limits[id] = limits
	return nil
}

func (m *machine) CopyDisk(_ context.Context, _, target string) (vm.DiskCopy, error) {
	if m.copy != nil && m.copy.Err() == nil {
		return nil, vm.ErrCopying
	}
	m.copy, m.copiedTo = newCopying(), target
	return m.copy, nil
}

func (m *machine) DiskFaults(string) vm.DiskFaults { return m.faults }

// guest is the agent's half.
type guest struct {
	fail    error
	resized map[string]uint64
	stats   *agentproto.VolumeStatsResponse
	asked   []string
	mounted *agentproto.ListResponse
}

func (g *guest) GetVolumeStats(_ context.Context, r *agentproto.VolumeStatsRequest) (*agentproto.VolumeStatsResponse, error) {
	g.asked = append(g.asked, r.GetVolumeGuestPath())
	return g.stats, g.fail
}

func (g *guest) ResizeVolume(_ context.Context, r *agentproto.ResizeVolumeRequest) (*agentproto.Empty, error) {
	if g.fail != nil {
		return nil, g.fail
	}
	g.resized[r.GetVolumeGuestPath()] = r.GetSize()
	return &agentproto.Empty{}, nil
}

func (g *guest) Freeze(_ context.Context, r *agentproto.FreezeRequest) (*agentproto.FreezeResponse, error) {
	g.asked = append(g.asked, r.GetVolumeGuestPath())
	return &agentproto.FreezeResponse{Id: 3, RemainingMilliseconds: r.GetLimitMilliseconds()}, g.fail
}

func (g *guest) Thaw(_ context.Context, r *agentproto.ThawRequest) (*agentproto.ThawResponse, error) {
	return &agentproto.ThawResponse{WasFrozen: r.GetId() == 3, Ended: "be\x1b[31mcause"}, g.fail
}

func (g *guest) List(context.Context, *agentproto.ListRequest) (*agentproto.ListResponse, error) {
	return g.mounted, g.fail
}

var unimplemented = &agentclient.Error{Method: "ResizeVolume", Code: codes.Unimplemented, Message: "no"}

// host is a host with records, and one sandbox on it that lives.
type host struct {
	t         *testing.T
	dir       string
	records   *directvolume.Store
	sandboxes directvolume.Sandboxes
	machine   *machine
	guest     *guest
	set       *Set
}

const sandbox = "s1"

func newHost(t *testing.T) *host {
	t.Helper()
	dir := t.TempDir()
	h := &host{
		t: t, dir: dir,
		sandboxes: directvolume.Sandboxes{GoDir: filepath.Join(dir, "sbs"), RustDir: filepath.Join(dir, "rust")},
		machine:   &machine{plugged: make(map[string]vm.Disk), sizes: make(map[string]int64)},
		guest:     &guest{resized: make(map[string]uint64)},
	}
	h.records = directvolume.NewStore(filepath.Join(dir, "records"), directvolume.WithSandboxes(h.sandboxes))
	h.live(sandbox)
	h.set = New(Config{
		Sandbox: sandbox, Records: h.records, Disks: h.machine, Agent: h.guest,
		Features: agentclient.Features{ResizeVolume: true, FormatIfBlank: true, GrowOnMount: true, Freeze: true},
		Log:      slog.New(slog.DiscardHandler),
	})
	return h
}

// live makes a sandbox of that id live until the test ends.
func (h *host) live(id string) {
	h.t.Helper()
	lease, err := h.sandboxes.AcquireLease(id)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = lease.Close() })
}

// record makes a device and a record of it, and returns the volume's path.
func (h *host) record(name string, change func(*directvolume.Record)) string {
	h.t.Helper()
	device := filepath.Join(h.dir, name+".img")
	if err := os.WriteFile(device, make([]byte, 4096), 0o600); err != nil {
		h.t.Fatal(err)
	}
	path := filepath.Join(h.dir, "target", name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		h.t.Fatal(err)
	}
	r := directvolume.Record{VolumeType: directvolume.VolumeTypeDirect, Device: device, FSType: "ext4"}
	if change != nil {
		change(&r)
	}
	if err := h.records.Add(h.t.Context(), path, r); err != nil {
		h.t.Fatal(err)
	}
	return path
}

func (h *host) device(name string) string { return filepath.Join(h.dir, name+".img") }

func (h *host) attach(container, path string) Use {
	h.t.Helper()
	use, err := h.set.Attach(h.t.Context(), container, path)
	if err != nil {
		h.t.Fatal(err)
	}
	return use
}

func (h *host) detach(container string) {
	h.t.Helper()
	if err := h.set.Detach(h.t.Context(), container); err != nil {
		h.t.Fatal(err)
	}
}

// state checks how many disks are plugged in and whether the volume is claimed.
func (h *host) state(path string, plugged int, claimed bool) {
	h.t.Helper()
	if len(h.machine.plugged) != plugged {
		h.t.Errorf("plugged in: %v, want %d", slices.Collect(maps.Keys(h.machine.plugged)), plugged)
	}
	id, err := h.records.SandboxFor(h.t.Context(), path)
	if errors.Is(err, directvolume.ErrNotFound) || errors.Is(err, directvolume.ErrNoSandbox) {
		id, err = "", nil
	}
	if err != nil || (id == sandbox) != claimed {
		h.t.Errorf("claimed by %q, %v; want claimed %v", id, err, claimed)
	}
}
