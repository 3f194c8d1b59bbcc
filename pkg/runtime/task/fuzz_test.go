package task

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	"google.golang.org/protobuf/proto"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

// FuzzSpec reads specs that no containerd writes. The start command and Create must agree on whose they are.
func FuzzSpec(f *testing.F) {
	for _, text := range []string{
		"", "null", "{}", "[]", `{"process":{},"root":{}}`, `{"process":null,"root":{"path":"rootfs"}}`,
		`{"process":{"args":["\u0000"]},"root":{},"annotations":{"io.kubernetes.cri.container-type":"container"}}`,
		`{"process":{},"root":{},"annotations":{"io.kubernetes.cri.container-type":"container","io.kubernetes.cri.sandbox-id":"../../etc"}}`,
		`{"process":{},"root":{},"annotations":{"io.kubernetes.cri.container-type":"sandbox","io.kubernetes.cri.sandbox-id":"x"}}`,
		`{"process":{},"root":{},"annotations":{"io.kubernetes.cri-o.ContainerType":"container"}}`,
		`{"process":{"user":{"uid":-1}},"root":{}}`, `{"linux":{"namespaces":[{"type":"none such"}]}}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		bundle := t.TempDir()
		if err := os.WriteFile(filepath.Join(bundle, "config.json"), text, 0o600); err != nil {
			t.Fatal(err)
		}
		spec, err := ReadSpec(bundle)
		if err != nil {
			return
		}
		_, fromCreate, err := Classify("id", spec.Annotations)
		fromStart, startErr := SandboxOf(bundle, "id")
		if (err == nil) != (startErr == nil) || fromCreate != fromStart {
			t.Errorf("Create says %q, %v, the start command %q, %v", fromCreate, err, fromStart, startErr)
		}
	})
}

// FuzzMetrics takes any bytes for a guest's statistics. What comes of them containerd must be able to read, and it may
// be but a few times as large.
func FuzzMetrics(f *testing.F) {
	for _, s := range []*agentproto.StatsContainerResponse{
		{},
		{NetworkStats: make([]*agentproto.NetworkStats, 0)},
		{CgroupStats: &agentproto.CgroupStats{MemoryStats: &agentproto.MemoryStats{
			Stats: map[string]uint64{"anon": 1, "usage": 2, "": 3, "no such thing": 4}}}},
		{CgroupStats: &agentproto.CgroupStats{BlkioStats: &agentproto.BlkioStats{
			IoServiceBytesRecursive: []*agentproto.BlkioStatsEntry{{Op: "Read", Value: 1}, {Op: "\x1b", Major: 1 << 63}}}}},
	} {
		data, err := proto.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("\x0a\xff\xff\xff\xff\x0f"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s agentproto.StatsContainerResponse
		if proto.Unmarshal(data, &s) != nil {
			return
		}
		value, err := metrics(&s)
		if err != nil {
			t.Fatal(err)
		}
		if limit := 16*len(data) + 1024; len(value.GetValue()) > limit {
			t.Errorf("%d bytes have become %d", len(data), len(value.GetValue()))
		}
		if err := proto.Unmarshal(value.GetValue(), new(stats.Metrics)); err != nil {
			t.Errorf("containerd cannot read it: %v", err)
		}
		if _, err := json.Marshal(value); err != nil {
			t.Error(err)
		}
	})
}
