package agentproto_test

import (
	"context"
	"os"
	"testing"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

// overTheWire sends a specification the way the protocol does.
func overTheWire(t *testing.T, in *specs.Spec) *specs.Spec {
	t.Helper()
	data, err := proto.Marshal(agentproto.SpecToProto(in))
	if err != nil {
		t.Fatal(err)
	}
	var p agentproto.Spec
	if err := proto.Unmarshal(data, &p); err != nil {
		t.Fatal(err)
	}
	return agentproto.SpecFromProto(&p)
}

func TestContainerdsDefaultSpecSurvivesTheWire(t *testing.T) {
	ctx := namespaces.WithNamespace(context.Background(), "k8s.io")
	spec, err := oci.GenerateSpec(ctx, nil, &containers.Container{ID: "c1"},
		oci.WithProcessArgs("sleep", "1d"), oci.WithTTY, oci.WithTTYSize(80, 25),
		oci.WithMemoryLimit(64<<20), oci.WithCPUCFS(50000, 100000), oci.WithPidsLimit(100))
	if err != nil {
		t.Fatal(err)
	}
	spec.Linux.Seccomp = seccomp.DefaultProfile(spec)
	if diff := cmp.Diff(spec, overTheWire(t, spec), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("specification changed on the wire (-sent +received):\n%s", diff)
	}
}

func TestEveryCarriedFieldSurvivesTheWire(t *testing.T) {
	full := &specs.Spec{
		Version: "1.1.0",
		Root:    &specs.Root{Path: "/rootfs", Readonly: true},
		Process: &specs.Process{
			User:            specs.User{UID: 1, GID: 2, AdditionalGids: []uint32{3, 4}, Username: "u"},
			Args:            []string{"a", ""},
			OOMScoreAdj:     ptr(0),
			Rlimits:         []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1 << 63, Soft: 0}},
			ApparmorProfile: "p", SelinuxLabel: "l", NoNewPrivileges: true,
		},
		Hooks: &specs.Hooks{
			//lint:ignore SA1019 deprecated, and still in use
			Prestart:        []specs.Hook{{Path: "/1", Timeout: ptr(0)}},
			CreateRuntime:   []specs.Hook{{Path: "/2", Args: []string{"x"}}},
			CreateContainer: []specs.Hook{{Path: "/3", Env: []string{"A=b"}}},
			StartContainer:  []specs.Hook{{Path: "/4"}},
			Poststart:       []specs.Hook{{Path: "/5"}},
			Poststop:        []specs.Hook{{Path: "/6", Timeout: ptr(7)}},
		},
		Linux: &specs.Linux{
			UIDMappings: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 65536}},
			GIDMappings: []specs.LinuxIDMapping{{ContainerID: 1, HostID: 2000, Size: 1}},
			Devices: []specs.LinuxDevice{
				{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229, FileMode: ptr(os.FileMode(0o666)), UID: ptr(uint32(0)), GID: ptr(uint32(5))},
				{Path: "/dev/null2", Type: "c", Major: 1, Minor: 3},
			},
			IntelRdt: &specs.LinuxIntelRdt{L3CacheSchema: "L3:0=ff"},
			Resources: &specs.LinuxResources{
				Devices: []specs.LinuxDeviceCgroup{
					{Allow: false, Access: "rwm"},
					{Allow: true, Type: "c", Major: ptr(int64(0)), Minor: ptr(int64(-1)), Access: "r"},
				},
				Memory: &specs.LinuxMemory{
					Limit: ptr(int64(-1)), Reservation: ptr(int64(0)), Swap: ptr(int64(1)), KernelTCP: ptr(int64(3)),
					Swappiness: ptr(uint64(0)), DisableOOMKiller: ptr(false),
				},
				CPU: &specs.LinuxCPU{
					Shares: ptr(uint64(2)), RealtimeRuntime: ptr(int64(0)), RealtimePeriod: ptr(uint64(9)),
					Cpus: "0-1", Mems: "0",
				},
				Network: &specs.LinuxNetwork{
					ClassID:    ptr(uint32(7)),
					Priorities: []specs.LinuxInterfacePriority{{Name: "eth0", Priority: 2}},
				},
				BlockIO: &specs.LinuxBlockIO{
					Weight: ptr(uint16(10)), LeafWeight: ptr(uint16(0)),
					WeightDevice: []specs.LinuxWeightDevice{{
						LinuxBlockIODevice: specs.LinuxBlockIODevice{Major: 8, Minor: 1}, Weight: ptr(uint16(1)),
					}},
					ThrottleReadBpsDevice:   throttle(1),
					ThrottleWriteBpsDevice:  throttle(2),
					ThrottleReadIOPSDevice:  throttle(3),
					ThrottleWriteIOPSDevice: throttle(4),
				},
				HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 1 << 21}},
			},
			Seccomp: &specs.LinuxSeccomp{
				DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64},
				Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog},
				Syscalls: []specs.LinuxSyscall{{
					Names: []string{"clone"}, Action: specs.ActErrno, ErrnoRet: ptr(uint(0)),
					Args: []specs.LinuxSeccompArg{{Index: 1, Value: 2, ValueTwo: 3, Op: specs.OpMaskedEqual}},
				}},
			},
		},
	}
	if diff := cmp.Diff(full, overTheWire(t, full), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("specification changed on the wire (-sent +received):\n%s", diff)
	}
}

func TestAbsentPartsStayAbsent(t *testing.T) {
	if got := agentproto.SpecFromProto(nil); got != nil {
		t.Errorf("no specification became %v", got)
	}
	if diff := cmp.Diff(&specs.Spec{}, overTheWire(t, &specs.Spec{})); diff != "" {
		t.Errorf("empty specification changed (-sent +received):\n%s", diff)
	}
}

// The names and numbers that Kata's side of the wire knows.
func TestWireFormIsKatas(t *testing.T) {
	storage := &agentproto.Storage{
		Driver: "blk", Source: "02/01", FsGroup: &agentproto.FSGroup{GroupId: 7, GroupChangePolicy: agentproto.FSGroupChangePolicy_OnRootMismatch},
		Shared: true,
	}
	got, err := proto.MarshalOptions{Deterministic: true}.Marshal(storage)
	if err != nil {
		t.Fatal(err)
	}
	want := "\x0a\x03blk" + "\x1a\x0502/01" + "\x3a\x04\x10\x07\x18\x01" + "\x40\x01"
	if string(got) != want {
		t.Errorf("Storage on the wire = %q, want %q", got, want)
	}
}

func throttle(rate uint64) []specs.LinuxThrottleDevice {
	return []specs.LinuxThrottleDevice{{
		LinuxBlockIODevice: specs.LinuxBlockIODevice{Major: 8, Minor: 0}, Rate: rate,
	}}
}

func ptr[T any](v T) *T { return &v }
