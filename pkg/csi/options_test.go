package csi

import (
	"errors"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/csi/mode"
)

func TestUnknownParametersAreRefusedByName(t *testing.T) {
	h := newHost(t)
	tests := map[string]struct {
		parameters map[string]string
		code       codes.Code
		word       string
	}{
		"none":                 {nil, codes.OK, ""},
		"the mode":             {map[string]string{"katadirect.io/mode": "direct"}, codes.OK, ""},
		"a later mode":         {map[string]string{"katadirect.io/mode": "auto"}, codes.InvalidArgument, "auto"},
		"no mode":              {map[string]string{"katadirect.io/mode": ""}, codes.InvalidArgument, "mode"},
		"a misspelt key":       {map[string]string{"katadirect.io/mod": "direct"}, codes.InvalidArgument, "katadirect.io/mod"},
		"another case":         {map[string]string{"katadirect.io/Mode": "direct"}, codes.InvalidArgument, "katadirect.io/Mode"},
		"a key without prefix": {map[string]string{"fstype": "ext4"}, codes.InvalidArgument, "fstype"},
		"Kubernetes' fstype":   {map[string]string{"csi.storage.k8s.io/fstype": "ext4"}, codes.OK, ""},
		"a bad fstype":         {map[string]string{"csi.storage.k8s.io/fstype": "zfs"}, codes.InvalidArgument, "zfs"},
		"a fstype that the capability contradicts": {map[string]string{"csi.storage.k8s.io/fstype": "xfs"}, codes.InvalidArgument, "xfs"},
		"what external-provisioner adds":           {map[string]string{"csi.storage.k8s.io/pvc/name": "data", "csi.storage.k8s.io/pv/name": "pvc-1", "csi.storage.k8s.io/pvc/namespace": "default"}, codes.OK, ""},
		"a secret that should have been taken out": {map[string]string{"csi.storage.k8s.io/provisioner-secret-name": "s"}, codes.InvalidArgument, "provisioner-secret-name"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			request := createRequest(name, gib)
			request.Parameters = test.parameters
			_, err := h.CreateVolume(t.Context(), request)
			refused(t, err, test.code, test.word)
		})
	}
	request := createRequest("attributes", gib)
	request.MutableParameters = map[string]string{"iops": "100"}
	_, err := h.CreateVolume(t.Context(), request)
	refused(t, err, codes.InvalidArgument, `"iops"`, "katadirect.io/iops")
}

func TestTheFileSystemIsAsAskedFor(t *testing.T) {
	h := newHost(t)
	for name, test := range map[string]struct {
		capability, parameter, want string
	}{
		"by the capability": {"xfs", "", "xfs"}, "by the parameter": {"", "xfs", "xfs"}, "by nobody": {"", "", "ext4"}, "by both": {"xfs", "xfs", "xfs"},
	} {
		t.Run(name, func(t *testing.T) {
			request := createRequest(name, gib, withFS(test.capability))
			if test.parameter != "" {
				request.Parameters = map[string]string{parameterFSType: test.parameter}
			}
			made, err := h.CreateVolume(t.Context(), request)
			must(t, err)
			v, err := h.driver.pool.Get(t.Context(), made.GetVolume().GetVolumeId())
			if err != nil || v.FSType != test.want {
				t.Errorf("the volume has %s, %v; want %s", v.FSType, err, test.want)
			}
		})
	}
}

func TestMountOptionsPassAnAllowList(t *testing.T) {
	tests := map[string]struct {
		fsType string
		flags  []string
		want   string // joined by spaces; "!" if refused
	}{
		"none":                       {"ext4", nil, ""},
		"common":                     {"ext4", []string{"noatime", "nodev"}, "noatime nodev"},
		"joined by commas":           {"ext4", []string{"noatime,nosuid"}, "noatime nosuid"},
		"twice":                      {"ext4", []string{"noatime", "noatime"}, "noatime"},
		"rw is nothing":              {"ext4", []string{"rw"}, ""},
		"ro":                         {"xfs", []string{"ro"}, "ro"},
		"both ro and rw":             {"xfs", []string{"ro", "rw"}, "!"},
		"ext4's own":                 {"ext4", []string{"commit=30", "data=ordered"}, "commit=30 data=ordered"},
		"xfs's own":                  {"xfs", []string{"logbsize=256k", "inode64"}, "logbsize=256k inode64"},
		"xfs's own on ext4":          {"ext4", []string{"inode64"}, "!"},
		"ext4's own on xfs":          {"xfs", []string{"commit=30"}, "!"},
		"btrfs's own":                {"btrfs", []string{"compress=zstd:3,ssd", "compress-force=lzo"}, "compress=zstd:3 ssd compress-force=lzo"},
		"btrfs's own on xfs":         {"xfs", []string{"compress=zstd"}, "!"},
		"an unknown compression":     {"btrfs", []string{"compress=zip"}, "!"},
		"a level that is not one":    {"btrfs", []string{"compress=zstd:fast"}, "!"},
		"a part of a btrfs":          {"btrfs", []string{"subvol=/other"}, "!"},
		"another device of a btrfs":  {"btrfs", []string{"device=/dev/sda"}, "!"},
		"half a btrfs":               {"btrfs", []string{"degraded"}, "!"},
		"a btrfs to be rescued":      {"btrfs", []string{"rescue=all"}, "!"},
		"a panic":                    {"ext4", []string{"errors=panic"}, "!"},
		"a panic on btrfs":           {"btrfs", []string{"fatal_errors=panic"}, "!"},
		"any, not known yet":         {"", []string{"inode64", "commit=30"}, "inode64 commit=30"},
		"no barrier":                 {"ext4", []string{"nobarrier"}, "!"},
		"barrier=0":                  {"ext4", []string{"barrier=0"}, "!"},
		"data=writeback":             {"ext4", []string{"data=writeback"}, "!"},
		"another device":             {"ext4", []string{"journal_path=/dev/sda"}, "!"},
		"log device":                 {"xfs", []string{"logdev=/dev/sda"}, "!"},
		"suid":                       {"ext4", []string{"suid"}, "!"},
		"dev":                        {"ext4", []string{"dev"}, "!"},
		"loop":                       {"ext4", []string{"loop"}, "!"},
		"bind after a comma":         {"ext4", []string{"noatime,bind"}, "!"},
		"empty":                      {"ext4", []string{""}, "!"},
		"a space":                    {"ext4", []string{" noatime"}, "!"},
		"a value that is not one":    {"ext4", []string{"commit=30,suid"}, "!"},
		"a value with a sign":        {"ext4", []string{"commit=-1"}, "!"},
		"sizes":                      {"xfs", []string{"allocsize=1m", "logbsize=32768"}, "allocsize=1m logbsize=32768"},
		"a size on btrfs":            {"btrfs", []string{"max_inline=2K"}, "max_inline=2K"},
		"a number that is no size":   {"ext4", []string{"commit=5k"}, "!"},
		"a count that is no size":    {"xfs", []string{"logbufs=8k"}, "!"},
		"a suffix alone":             {"xfs", []string{"logbsize=k"}, "!"},
		"two suffixes":               {"xfs", []string{"logbsize=32kk"}, "!"},
		"no value":                   {"ext4", []string{"commit="}, "!"},
		"a value where none belongs": {"ext4", []string{"noatime=1"}, "!"},
		"a very long one":            {"ext4", []string{"commit=" + strings.Repeat("1", 100)}, "!"},
		"a prefix of a good one":     {"ext4", []string{"noatim"}, "!"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := parseMountOptions(test.fsType, test.flags)
			if test.want == "!" {
				if !errors.Is(err, ErrInvalidArgument) {
					t.Errorf("%v gave %v, %v", test.flags, got, err)
				}
				return
			}
			if err != nil || strings.Join(got, " ") != test.want {
				t.Errorf("%v gave %v, %v; want %q", test.flags, got, err, test.want)
			}
		})
	}
}

func FuzzMountOptions(f *testing.F) {
	f.Add("ext4", "noatime,commit=5")
	f.Add("xfs", "logbsize=256k")
	f.Add("", "bind")
	f.Fuzz(func(t *testing.T, fsType, flag string) {
		options, err := parseMountOptions(fsType, []string{flag})
		if err != nil {
			return
		}
		for _, option := range options {
			name, value, _ := strings.Cut(option, "=")
			if strings.ContainsAny(option, ", \t\n\x00/\\") || strings.ContainsAny(value, "=") {
				t.Errorf("%q let %q through", flag, option)
			}
			switch name {
			case "bind", "rbind", "loop", "remount", "move", "suid", "dev", "nobarrier", "norecovery", "logdev", "rtdev", "device", "subvol", "degraded", "rescue":
				t.Errorf("%q let %q through", flag, option)
			}
		}
	})
}

func FuzzParameters(f *testing.F) {
	f.Add("katadirect.io/mode", "direct")
	f.Add("katadirect.io/mode", "auto")
	f.Add("katadirect.io/mode", "host")
	f.Add("csi.storage.k8s.io/fstype", "xfs")
	f.Add("fstype", "ext4")
	f.Fuzz(func(t *testing.T, key, value string) {
		p, err := parseParameters(map[string]string{key: value})
		if err != nil {
			return
		}
		want := mode.Direct
		if key == parameterMode {
			if want, err = mode.Parse(value); err != nil {
				t.Errorf("%q=%q passes: %v", key, value, err)
			}
		}
		if p.mode != want || p.fsType != "" && checkFSType(p.fsType) != nil {
			t.Errorf("%q=%q gave %+v", key, value, p)
		}
	})
}

func TestTopologyDecidesWhereAVolumeIsMade(t *testing.T) {
	h := newHost(t)
	place := func(key, value string) *csi.Topology { return &csi.Topology{Segments: map[string]string{key: value}} }
	here, elsewhere := place(TopologyKey, "node-1"), place(TopologyKey, "node-2")
	tests := map[string]struct {
		requirement *csi.TopologyRequirement
		code        codes.Code
	}{
		"anywhere":              {nil, codes.OK},
		"here":                  {&csi.TopologyRequirement{Requisite: []*csi.Topology{here}}, codes.OK},
		"here or there":         {&csi.TopologyRequirement{Requisite: []*csi.Topology{elsewhere, here}}, codes.OK},
		"rather there":          {&csi.TopologyRequirement{Requisite: []*csi.Topology{elsewhere, here}, Preferred: []*csi.Topology{elsewhere}}, codes.OK},
		"there":                 {&csi.TopologyRequirement{Requisite: []*csi.Topology{elsewhere}}, codes.ResourceExhausted},
		"in another's topology": {&csi.TopologyRequirement{Requisite: []*csi.Topology{place("zone", "b")}}, codes.OK},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			request := createRequest(name, gib)
			request.AccessibilityRequirements = test.requirement
			made, err := h.CreateVolume(t.Context(), request)
			refused(t, err, test.code)
			if test.code == codes.OK && made.GetVolume().GetAccessibleTopology()[0].GetSegments()[TopologyKey] != "node-1" {
				t.Errorf("the volume says it is in %v", made.GetVolume().GetAccessibleTopology())
			}
		})
	}
	info, err := h.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
	if err != nil || info.GetNodeId() != "node-1" || info.GetAccessibleTopology().GetSegments()[TopologyKey] != "node-1" {
		t.Errorf("node info is %v, %v", info, err)
	}
}

func TestCapacityIsOfHereAndLeavesRefusalsToCreateVolume(t *testing.T) {
	h := newHost(t)
	elsewhere := &csi.Topology{Segments: map[string]string{TopologyKey: "node-2"}}
	tests := map[string]struct {
		request *csi.GetCapacityRequest
		some    bool
		minimum int64
	}{
		"anything":   {&csi.GetCapacityRequest{}, true, 16 << 20},
		"xfs":        {&csi.GetCapacityRequest{Parameters: map[string]string{parameterFSType: "xfs"}}, true, 300 << 20},
		"xfs by cap": {&csi.GetCapacityRequest{VolumeCapabilities: []*csi.VolumeCapability{capability(withFS("xfs"))}}, true, 300 << 20},
		"btrfs":      {&csi.GetCapacityRequest{Parameters: map[string]string{parameterFSType: "btrfs"}}, true, 256 << 20},
		"elsewhere":  {&csi.GetCapacityRequest{AccessibleTopology: elsewhere}, false, 0},
		// CreateVolume says why not; without capacity no scheduler would let it come to that.
		"a parameter that there is not":   {&csi.GetCapacityRequest{Parameters: map[string]string{"colour": "red"}}, true, 16 << 20},
		"a file system that there is not": {&csi.GetCapacityRequest{VolumeCapabilities: []*csi.VolumeCapability{capability(withFS("ext2"))}}, true, 16 << 20},
		"an access that there is not": {&csi.GetCapacityRequest{VolumeCapabilities: []*csi.VolumeCapability{
			capability(withMode(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER)),
		}}, true, 16 << 20},
		"nowhere": {&csi.GetCapacityRequest{Parameters: map[string]string{"colour": "red"}, AccessibleTopology: elsewhere}, false, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r, err := h.GetCapacity(t.Context(), test.request)
			must(t, err)
			if (r.GetAvailableCapacity() > 0) != test.some || r.GetMinimumVolumeSize().GetValue() != test.minimum {
				t.Errorf("capacity is %v", r)
			}
		})
	}
	before, err := h.GetCapacity(t.Context(), &csi.GetCapacityRequest{})
	must(t, err)
	h.create("pvc")
	after, err := h.GetCapacity(t.Context(), &csi.GetCapacityRequest{})
	must(t, err)
	if got := before.GetAvailableCapacity() - after.GetAvailableCapacity(); got < gib/2 { // others write on this disk too
		t.Errorf("a promise of %d bytes took %d from the capacity", gib, got)
	}
}
