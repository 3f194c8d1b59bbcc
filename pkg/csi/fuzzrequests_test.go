package csi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/katadirect/katadirect/pkg/csi/loop"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// method is one RPC of the driver.
type method struct {
	path            string
	request, answer protoreflect.MessageType
}

// methods are all RPCs of the services that the driver serves, in csi.proto's order.
func methods(t testing.TB) []method {
	t.Helper()
	var all []method
	for _, name := range []protoreflect.FullName{"csi.v1.Identity", "csi.v1.Controller", "csi.v1.GroupController", "csi.v1.Node"} {
		found, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
		if err != nil {
			t.Fatal(err)
		}
		rpcs := found.(protoreflect.ServiceDescriptor).Methods()
		for i := range rpcs.Len() {
			rpc := rpcs.Get(i)
			request, err := protoregistry.GlobalTypes.FindMessageByName(rpc.Input().FullName())
			if err != nil {
				t.Fatal(err)
			}
			answer, err := protoregistry.GlobalTypes.FindMessageByName(rpc.Output().FullName())
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, method{"/" + string(name) + "/" + string(rpc.Name()), request, answer})
		}
	}
	return all
}

// Any request at all gets an answer with a code that somebody foresaw, and touches nothing but the driver's own folders
// and the paths that it names.
func FuzzRequests(f *testing.F) {
	d := startFuzzed(f)
	all := methods(f)
	for i, m := range all {
		f.Add(uint8(i), []byte{})
		for _, seed := range d.seeds() {
			if seed.ProtoReflect().Type().Descriptor().FullName() == m.request.Descriptor().FullName() {
				data, err := proto.Marshal(seed)
				if err != nil {
					f.Fatal(err)
				}
				f.Add(uint8(i), data)
			}
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		m := all[int(which)%len(all)]
		request := m.request.New().Interface()
		if proto.Unmarshal(data, request) != nil {
			return // gRPC's business
		}
		d.confine(request.ProtoReflect())
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := d.conn.Invoke(ctx, m.path, request, m.answer.New().Interface())
		switch code := status.Code(err); code {
		case codes.Internal, codes.Unknown, codes.DataLoss, codes.DeadlineExceeded:
			t.Errorf("%s of %v: %v", m.path, request, err)
		}
		d.check(t)
	})
}

// fuzzed is a driver with two volumes, one of them published.
type fuzzed struct {
	dir    string
	conn   *grpc.ClientConn
	id     string
	victim string
}

func startFuzzed(f *testing.F) *fuzzed {
	f.Helper()
	dir, err := os.MkdirTemp("", "kdf") // sockets have short paths
	if err != nil {
		f.Fatal(err)
	}
	d := &fuzzed{dir: dir, victim: filepath.Join(dir, "victim")}
	if err := os.WriteFile(d.victim, []byte("precious"), 0o600); err != nil {
		f.Fatal(err)
	}
	driver, err := Open(f.Context(), Config{
		NodeID: "node-1", PoolDir: filepath.Join(dir, "pool"), RecordRoot: filepath.Join(dir, "records"),
		StateDir: filepath.Join(dir, "state"), Sandboxes: directvolume.Sandboxes{GoDir: filepath.Join(dir, "sbs"), RustDir: filepath.Join(dir, "rust")},
	})
	if err != nil {
		f.Fatal(err)
	}
	d.id = driver.pool.ID("pvc")
	listener, err := Listen(f.Context(), filepath.Join(dir, "csi.sock"))
	if err != nil {
		f.Fatal(err)
	}
	if d.conn, err = grpc.NewClient("unix://"+filepath.Join(dir, "csi.sock"), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		f.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- driver.Serve(ctx, listener) }()
	f.Cleanup(func() {
		d.conn.Close()
		end()
		<-ended
		d.takeAway(f)
		driver.Close()
		os.RemoveAll(dir)
	})
	if err := os.Mkdir(d.path("paths"), 0o750); err != nil {
		f.Fatal(err)
	}
	return d
}

// takeAway removes the devices and mounts that requests have asked for.
func (d *fuzzed) takeAway(f *testing.F) {
	_ = filepath.WalkDir(d.path("paths"), func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			_ = removeDevice(path)
		}
		return nil
	})
	if err := loop.New(d.path("pool"), nil).Sweep(context.Background(), func(string) bool { return false }); err != nil {
		f.Error(err)
	}
}

func (d *fuzzed) path(name string) string { return filepath.Join(d.dir, name) }

// confine makes every path of a request one below the test's folder: it is kubelet's right to name any.
func (d *fuzzed) confine(m protoreflect.Message) {
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		isPath := strings.HasSuffix(string(field.Name()), "_path")
		switch {
		case field.Kind() == protoreflect.StringKind && !field.IsList() && !field.IsMap() && isPath && value.String() != "":
			sum := sha256.Sum256([]byte(value.String()))
			m.Set(field, protoreflect.ValueOfString(d.path("paths/"+hex.EncodeToString(sum[:4]))))
		case field.Message() != nil && !field.IsMap() && field.IsList():
			for i := range value.List().Len() {
				d.confine(value.List().Get(i).Message())
			}
		case field.Message() != nil && !field.IsMap():
			d.confine(value.Message())
		}
		return true
	})
}

// check looks for what no request may do.
func (d *fuzzed) check(t *testing.T) {
	t.Helper()
	if data, err := os.ReadFile(d.victim); err != nil || string(data) != "precious" {
		t.Errorf("the victim holds %q, %v", data, err)
	}
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !slices.Contains([]string{"pool", "records", "state", "sbs", "rust", "csi.sock", "paths", "victim"}, e.Name()) {
			t.Errorf("%s is new beside the driver's folders", e.Name())
		}
	}
}

// seeds are requests that lead a volume through its life.
func (d *fuzzed) seeds() []proto.Message {
	c, size := capability(), &csi.CapacityRange{RequiredBytes: 16 << 20}
	staging, target := d.path("paths/staging"), d.path("paths/target")
	raw := capability(asBlock)
	return []proto.Message{
		&csi.CreateVolumeRequest{Name: "pvc", CapacityRange: size, VolumeCapabilities: []*csi.VolumeCapability{c}},
		&csi.CreateVolumeRequest{Name: "raw", CapacityRange: size, VolumeCapabilities: []*csi.VolumeCapability{raw}},
		&csi.CreateVolumeRequest{Name: "\x00", CapacityRange: &csi.CapacityRange{LimitBytes: -1}, Parameters: map[string]string{"": ""}},
		&csi.CreateVolumeRequest{Name: "clone", CapacityRange: size, VolumeCapabilities: []*csi.VolumeCapability{c}, VolumeContentSource: contentSource(d.id)},
		&csi.NodeStageVolumeRequest{VolumeId: d.id, StagingTargetPath: staging, VolumeCapability: c},
		&csi.NodePublishVolumeRequest{VolumeId: d.id, StagingTargetPath: staging, TargetPath: target, VolumeCapability: c},
		&csi.NodePublishVolumeRequest{VolumeId: "csi-inline", TargetPath: target, VolumeCapability: c,
			VolumeContext: map[string]string{ephemeralKey: "true"}},
		&csi.NodeGetVolumeStatsRequest{VolumeId: d.id, VolumePath: target},
		&csi.NodeExpandVolumeRequest{VolumeId: d.id, VolumePath: target, CapacityRange: &csi.CapacityRange{RequiredBytes: 32 << 20}},
		&csi.ControllerPublishVolumeRequest{VolumeId: d.id, NodeId: "node-1", VolumeCapability: c},
		&csi.ControllerModifyVolumeRequest{VolumeId: d.id, MutableParameters: map[string]string{"katadirect.io/iops": "100"}},
		&csi.CreateSnapshotRequest{SourceVolumeId: d.id, Name: "snap"},
		&csi.CreateVolumeGroupSnapshotRequest{Name: "group", SourceVolumeIds: []string{d.id, "../victim"}},
		&csi.ListVolumesRequest{MaxEntries: 1, StartingToken: pageToken(d.id)},
		&csi.DeleteVolumeRequest{VolumeId: "../victim"},
		&csi.DeleteSnapshotRequest{SnapshotId: "../victim"},
		&csi.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: "../victim"},
		&csi.NodeUnpublishVolumeRequest{VolumeId: d.id, TargetPath: target},
		&csi.NodeUnstageVolumeRequest{VolumeId: d.id, StagingTargetPath: staging},
		&csi.ValidateVolumeCapabilitiesRequest{VolumeId: d.id, VolumeCapabilities: []*csi.VolumeCapability{c, raw}},
	}
}
