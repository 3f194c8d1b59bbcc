package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

func TestAMountWithoutARecordIsAnOrdinaryOne(t *testing.T) {
	h := newHost(t)
	h.record("v", nil)
	for _, source := range []string{filepath.Join(h.dir, "target"), "/", "relative", "/" + string(make([]byte, 300))} {
		if _, err := h.set.Attach(t.Context(), "c1", source); !errors.Is(err, directvolume.ErrNotFound) {
			t.Errorf("%.40q: error %v, want ErrNotFound", source, err)
		}
	}
}

func TestTheRecordBecomesTheAgentsStorage(t *testing.T) {
	grow, format := "katadirect.io/grow=on-mount", "katadirect.io/format=if-blank"
	for _, tc := range []struct {
		name   string
		change func(*directvolume.Record)
		want   *agentproto.Storage
	}{
		{"plain", nil, &agentproto.Storage{DriverOptions: []string{grow}}},
		{"options, also several in one", func(r *directvolume.Record) { r.Options = []string{"noatime,discard", "rw"} },
			&agentproto.Storage{DriverOptions: []string{grow}, Options: []string{"noatime", "discard", "rw"}}},
		{"read-only is never grown or formatted", func(r *directvolume.Record) {
			r.Options = []string{"ro"}
			r.Metadata = map[string]string{directvolume.MetadataFormat: directvolume.FormatIfBlank}
		}, &agentproto.Storage{Options: []string{"ro"}}},
		{"format if blank", func(r *directvolume.Record) {
			r.Metadata = map[string]string{directvolume.MetadataFormat: directvolume.FormatIfBlank}
		}, &agentproto.Storage{DriverOptions: []string{grow, format}}},
		{"mkfs options go with permission to format", func(r *directvolume.Record) {
			r.Metadata = map[string]string{
				directvolume.MetadataFormat: directvolume.FormatIfBlank, directvolume.MetadataMkfsOptions: "-i 8192 -L data",
			}
		}, &agentproto.Storage{DriverOptions: []string{grow, format, "katadirect.io/mkfs-options=-i 8192 -L data"}}},
		{"mkfs options alone are no permission", func(r *directvolume.Record) {
			r.Metadata = map[string]string{directvolume.MetadataMkfsOptions: "-i 8192"}
		}, &agentproto.Storage{DriverOptions: []string{grow}}},
		{"Kata's createFilesystem never formats what is not blank", func(r *directvolume.Record) {
			r.Metadata = map[string]string{"createFilesystem": "true"}
		}, &agentproto.Storage{DriverOptions: []string{grow, format}}},
		{"a label goes along, read-only or not", func(r *directvolume.Record) {
			r.Options = []string{"ro"}
			r.Metadata = map[string]string{directvolume.MetadataSELinuxLabel: "u:r:t:s0:c1,c2"}
		}, &agentproto.Storage{DriverOptions: []string{"katadirect.io/selinux-label=u:r:t:s0:c1,c2"}, Options: []string{"ro"}}},
		{"group, by default always", func(r *directvolume.Record) {
			r.Metadata = map[string]string{directvolume.MetadataFSGroup: "1000", directvolume.MetadataFSGroupChangePolicy: "x"}
		}, &agentproto.Storage{DriverOptions: []string{grow}, FsGroup: &agentproto.FSGroup{GroupId: 1000}}},
		{"group, on root mismatch", func(r *directvolume.Record) {
			r.Metadata = map[string]string{directvolume.MetadataFSGroup: "4294967295",
				directvolume.MetadataFSGroupChangePolicy: "OnRootMismatch"}
		}, &agentproto.Storage{DriverOptions: []string{grow}, FsGroup: &agentproto.FSGroup{
			GroupId: 4294967295, GroupChangePolicy: agentproto.FSGroupChangePolicy_OnRootMismatch}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHost(t)
			use := h.attach("c1", h.record("v", tc.change))
			tc.want.Driver, tc.want.Source, tc.want.Fstype = "blk", "02/01", "ext4"
			tc.want.MountPoint = "/run/kata-containers/sandbox/storage/MDIvMDE="
			if got := use.Storages[0].String(); got != tc.want.String() {
				t.Errorf("storage %s\nwant    %s", got, tc.want)
			}
			if use.GuestPath != tc.want.GetMountPoint() {
				t.Errorf("guest path %s", use.GuestPath)
			}
			readOnly := slices.Contains(tc.want.GetOptions(), "ro")
			for _, d := range h.machine.plugged {
				if d.Path != h.device("v") || d.ReadOnly != readOnly || len(d.ID) > 20 {
					t.Errorf("plugged in %+v, want read-only %v", d, readOnly)
				}
			}
		})
	}
}

func TestOneVolumeInSeveralContainersIsPluggedOnceAndCounted(t *testing.T) {
	h := newHost(t)
	path := h.record("v", nil)
	first := h.attach("c1", path)
	if again := h.attach("c1", path); len(again.Storages) != 0 || again.GuestPath != first.GuestPath {
		t.Errorf("a second mount in the same container: %+v, want the same place and no second storage", again)
	}
	second := h.attach("c2", path)
	if !reflect.DeepEqual(first, second) || h.machine.plugs != 1 {
		t.Errorf("second container got %+v, want %+v; plugged %d times", second, first, h.machine.plugs)
	}
	h.set.Expose("c1")
	h.set.Expose("c2")
	h.detach("c1")
	h.state(path, 1, true)
	if got := h.set.List(); len(got) != 1 || !slices.Equal(got[0].Containers, []string{"c2"}) {
		t.Errorf("list %+v", got)
	}
}

func TestADeviceUnderTwoNamesIsOneDisk(t *testing.T) {
	h := newHost(t)
	path := h.record("v", nil)
	link := filepath.Join(h.dir, "link")
	if err := os.Symlink(h.device("v"), link); err != nil {
		t.Fatal(err)
	}
	other := h.record("w", func(r *directvolume.Record) { r.Device = link })
	readOnly := h.record("x", func(r *directvolume.Record) { r.Device, r.Options = link, []string{"ro"} })
	if a, b := h.attach("c1", path), h.attach("c2", other); a.GuestPath != b.GuestPath || h.machine.plugs != 1 {
		t.Errorf("%s and %s, plugged %d times", a.GuestPath, b.GuestPath, h.machine.plugs)
	}
	if use := h.attach("c3", readOnly); !slices.Contains(use.Storages[0].GetOptions(), "ro") {
		t.Errorf("options %q", use.Storages[0].GetOptions())
	}
	h.detach("c1")
	h.detach("c2")
	h.detach("c3") // never exposed, so it goes
	for _, p := range []string{path, other, readOnly} {
		h.state(p, 0, false)
	}
}

func TestAWritableUserOfAReadOnlyDiskIsRefused(t *testing.T) {
	h := newHost(t)
	readOnly := h.record("v", func(r *directvolume.Record) { r.Options = []string{"ro"} })
	writable := h.record("w", func(r *directvolume.Record) { r.Device = h.device("v") })
	h.attach("c1", readOnly)
	if _, err := h.set.Attach(t.Context(), "c2", writable); !errors.Is(err, ErrReadOnly) {
		t.Errorf("error %v", err)
	}
	h.state(writable, 1, false)
}

func TestTheDiskStaysForTheNextContainerWhileTheRecordIsThere(t *testing.T) {
	h := newHost(t)
	path := h.record("v", nil)
	first := h.attach("init", path)
	h.set.Expose("init")
	h.detach("init")
	h.state(path, 1, true)
	second := h.attach("main", path)
	if h.machine.plugs != 1 || !reflect.DeepEqual(first, second) {
		t.Errorf("plugged %d times; %+v after %+v", h.machine.plugs, second, first)
	}

	t.Run("and goes with the last container when it is not", func(t *testing.T) {
		if err := os.RemoveAll(h.records.Root()); err != nil { // as Kata's own tool does, claim or no claim
			t.Fatal(err)
		}
		h.set.Expose("main")
		h.detach("main")
		h.state(path, 0, false)
	})
}

func TestAnExchangedRecordIsAnotherVolume(t *testing.T) {
	h := newHost(t)
	path := h.record("v", nil)
	first := h.attach("c1", path)
	h.set.Expose("c1")
	if err := os.RemoveAll(h.records.Root()); err != nil {
		t.Fatal(err)
	}
	h.record("w", nil)
	h.record("v", func(r *directvolume.Record) { r.Device = h.device("w") })
	second := h.attach("c2", path)
	if first.GuestPath == second.GuestPath {
		t.Error("the new record leads to the old disk")
	}
	h.detach("c1")
	h.state(path, 2, true)
	h.detach("c2") // not exposed: its disk goes, the claim stays with the disk that is left
	h.state(path, 1, true)
}

func TestWhatFailsLeavesNothingPluggedAndNothingClaimed(t *testing.T) {
	h := newHost(t)
	for _, tc := range []struct {
		name   string
		before func() string // returns the volume's path
		want   error
	}{
		{"the machine cannot plug it", func() string {
			h.machine.failPlug = true
			return h.record("a", nil)
		}, errInjected},
		{"the device is gone", func() string {
			path := h.record("b", nil)
			if err := os.Remove(h.device("b")); err != nil {
				t.Fatal(err)
			}
			return path
		}, directvolume.ErrDevice},
		{"the device is a folder", func() string {
			return h.record("c", func(r *directvolume.Record) { r.Device = h.dir })
		}, directvolume.ErrDevice},
		{"encryption that nobody would do", func() string {
			return h.record("d", func(r *directvolume.Record) { r.Metadata = map[string]string{"encryptionKey": "ephemeral"} })
		}, ErrUnsupported},
		{"a torn record", func() string {
			path := h.record("e", nil)
			files, err := filepath.Glob(filepath.Join(h.records.Root(), "*", "mountInfo.json"))
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				if err := os.Truncate(f, 20); err != nil {
					t.Fatal(err)
				}
			}
			return path
		}, directvolume.ErrInvalid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h.t = t
			*h.machine = machine{plugged: h.machine.plugged, sizes: h.machine.sizes}
			path := tc.before()
			if _, err := h.set.Attach(t.Context(), "c1", path); !errors.Is(err, tc.want) {
				t.Errorf("error %v, want %v", err, tc.want)
			}
			h.state(path, 0, false)
			if got := h.set.List(); len(got) != 0 {
				t.Errorf("list %+v", got)
			}
		})
	}
}

func TestAVolumeOfALivingPodIsRefused(t *testing.T) {
	h := newHost(t)
	h.live("other")
	path := h.record("v", nil)
	if _, err := h.records.Claim(t.Context(), path, "other"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.set.Attach(t.Context(), "c1", path); !errors.Is(err, directvolume.ErrClaimed) {
		t.Errorf("error %v, want ErrClaimed", err)
	}
	h.state(path, 0, false)
	if id, err := h.records.SandboxFor(t.Context(), path); id != "other" {
		t.Errorf("the other pod's claim: %q, %v", id, err)
	}
}

func TestForbiddenBlockDevicesFailAContainerWithAVolumeAndNoOther(t *testing.T) {
	h := newHost(t)
	path := h.record("v", nil)
	h.set.Disabled = true
	if _, err := h.set.Attach(t.Context(), "c1", path); !errors.Is(err, ErrDisabled) {
		t.Errorf("error %v, want ErrDisabled", err)
	}
	if _, err := h.set.Attach(t.Context(), "c1", h.dir); !errors.Is(err, directvolume.ErrNotFound) {
		t.Errorf("an ordinary mount: error %v", err)
	}
	h.state(path, 0, false)
}

func TestACancelledCallIsTakenBack(t *testing.T) {
	h := newHost(t)
	path := h.record("v", nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.set.Attach(ctx, "c1", path); err == nil {
		t.Error("no error")
	}
	h.state(path, 0, false)
}

func TestADiskThatCannotBeUnpluggedStaysClaimedAndIsTriedAgain(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(h *host, path string)
	}{
		{"after a failed plug", func(h *host, path string) {
			h.machine.failPlug, h.machine.failUnplg = true, true
			if _, err := h.set.Attach(t.Context(), "c1", path); !errors.Is(err, errInjected) {
				h.t.Errorf("error %v", err)
			}
		}},
		{"after its container", func(h *host, path string) {
			h.attach("c1", path)
			h.machine.failUnplg = true
			if err := h.set.Detach(t.Context(), "c1"); !errors.Is(err, errInjected) {
				h.t.Errorf("error %v", err)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHost(t)
			path := h.record("v", nil)
			tc.do(h, path)
			h.state(path, 1, true)

			h.machine.failPlug, h.machine.failUnplg = false, false
			if use := h.attach("c2", path); len(use.Storages) != 1 {
				t.Errorf("storages %v", use.Storages)
			}
			h.detach("c2")
			h.state(path, 0, false)
		})
	}
}

func TestReleaseGivesEverythingBack(t *testing.T) {
	h := newHost(t)
	a, b := h.record("a", nil), h.record("b", nil)
	h.attach("c1", a)
	h.attach("c2", b)
	for range 2 {
		if err := h.set.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	h.state(a, 2, false) // the machine takes its disks with it
	h.state(b, 2, false)
	if got := h.set.List(); len(got) != 0 {
		t.Errorf("list %+v", got)
	}
}
