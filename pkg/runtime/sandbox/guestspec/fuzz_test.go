package guestspec

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

// Whatever a spec says, the guest's one has the guest's root, keeps nothing that the host runs hooks or namespaces by,
// and can be sent.
func FuzzFor(f *testing.F) {
	for _, text := range []string{
		`{}`, `{"process":{}}`, `{"process":{},"linux":{}}`, `{"process":{},"root":{"path":"/"}}`,
		`{"process":{"capabilities":null,"rlimits":[{}]},"hooks":{"prestart":[{"path":"/bin/sh"}]}}`,
		`{"process":{},"linux":{"namespaces":[{"type":"network","path":"/proc/1/ns/net"},{"type":"none such"},{}]}}`,
		`{"process":{},"linux":{"resources":{"memory":{"limit":-9223372036854775808},"cpu":{"shares":18446744073709551615}}}}`,
		`{"process":{},"linux":{"resources":{"pids":{"limit":-5},"hugepageLimits":[{"pageSize":"","limit":1}],"unified":{"../x":"y"}}}}`,
		`{"process":{},"linux":{"devices":[{"path":"../../dev/sda","type":"b","major":-1}],"seccomp":{"syscalls":[{}]}}}`,
		`{"process":{},"linux":{"cgroupsPath":"../../../escape","sysctl":{"kernel.x":"y"}}}`,
		`{"process":{},"mounts":[{"destination":"/run/kata-containers","source":"/etc","type":"bind","options":["rbind"]}]}`,
		`{"process":{},"linux":{"intelRdt":{},"personality":{},"timeOffsets":{"x":{}}},"vm":{},"solaris":{},"windows":{}}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var spec specs.Spec
		if json.Unmarshal(text, &spec) != nil {
			return
		}
		for _, m := range spec.Mounts {
			if _, err := KindOf(m); err != nil {
				return
			}
		}
		before, err := json.Marshal(spec)
		if err != nil {
			t.Fatal(err)
		}
		out, _, err := For(&spec, Guest{ContainerID: "c", Bundle: "/b", Rootfs: "/guest/rootfs", Seccomp: true})
		if after, _ := json.Marshal(spec); string(after) != string(before) {
			t.Error("the host's spec was changed")
		}
		if err != nil {
			return
		}
		if out.Root.Path != "/guest/rootfs" || out.Hooks != nil {
			t.Errorf("root %q, hooks %v", out.Root.Path, out.Hooks)
		}
		for _, n := range out.Linux.Namespaces {
			if n.Path != "" {
				t.Errorf("a namespace of the host: %+v", n)
			}
		}
		if strings.Contains(out.Linux.CgroupsPath, "..") {
			t.Errorf("cgroup %q", out.Linux.CgroupsPath)
		}
		agentproto.SpecToProto(out)
	})
}
