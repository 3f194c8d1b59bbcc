package guestspec

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Rules as containerd writes them.
var (
	denyAll  = specs.LinuxDeviceCgroup{Allow: false, Access: "rwm"}
	allowAll = specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"}
	null     = specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(3)), Access: "rwm"}
	fuse     = specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr(int64(10)), Minor: ptr(int64(229)), Access: "rwm"}
)

func disk(access string) specs.LinuxDeviceCgroup {
	return specs.LinuxDeviceCgroup{Allow: true, Type: "b", Major: ptr(int64(7)), Minor: ptr(int64(0)), Access: access}
}

func withRules(rules ...specs.LinuxDeviceCgroup) *specs.Spec {
	return &specs.Spec{Linux: &specs.Linux{Resources: &specs.LinuxResources{Devices: rules}}}
}

func TestDeviceRulesForTheGuestSayNothingOfTheHostsDisks(t *testing.T) {
	for _, tc := range []struct {
		name     string
		in, want []specs.LinuxDeviceCgroup
	}{
		{"an ordinary container", []specs.LinuxDeviceCgroup{denyAll, null, disk("rwm"), fuse}, []specs.LinuxDeviceCgroup{denyAll, null, fuse}},
		{"none at all", nil, []specs.LinuxDeviceCgroup{denyAll}},
		{"a privileged one", []specs.LinuxDeviceCgroup{denyAll, null, allowAll}, []specs.LinuxDeviceCgroup{allowAll}},
		{"with wildcards in numbers", []specs.LinuxDeviceCgroup{{Allow: true, Type: "a", Major: ptr(int64(-1)), Minor: ptr(int64(-1)), Access: "rwm"}},
			[]specs.LinuxDeviceCgroup{allowAll}},
		{"all, to be read only", []specs.LinuxDeviceCgroup{{Allow: true, Access: "r"}}, []specs.LinuxDeviceCgroup{denyAll}},
		{"all, and then none", []specs.LinuxDeviceCgroup{allowAll, denyAll, null}, []specs.LinuxDeviceCgroup{denyAll, null}},
	} {
		if got := DeviceRules(withRules(tc.in...)); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: %+v, want %+v", tc.name, got, tc.want)
		}
	}
	privileged := withRules(denyAll, null)
	privileged.Process = &specs.Process{Capabilities: &specs.LinuxCapabilities{
		Bounding: []string{"CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_ADMIN"}}}
	if got := DeviceRules(privileged); !reflect.DeepEqual(got, []specs.LinuxDeviceCgroup{allowAll}) {
		t.Errorf("privileged, without the host's devices: %+v", got)
	}
	privileged.Process.Capabilities.Bounding = []string{"CAP_SYS_ADMIN"}
	if got := DeviceRules(privileged); !reflect.DeepEqual(got, []specs.LinuxDeviceCgroup{denyAll, null}) {
		t.Errorf("with one capability more than others: %+v", got)
	}
	if got := DeviceRules(&specs.Spec{Linux: &specs.Linux{}}); !reflect.DeepEqual(got, []specs.LinuxDeviceCgroup{denyAll}) {
		t.Errorf("without resources: %+v", got)
	}
}

func TestTheAccessToADiskIsThatOfItsRule(t *testing.T) {
	loop := specs.LinuxDevice{Path: "/dev/xvda", Type: "b", Major: 7}
	mknod := specs.LinuxDeviceCgroup{Allow: true, Type: "b", Access: "m"} // containerd's, for every disk
	for _, tc := range []struct {
		rules []specs.LinuxDeviceCgroup
		want  string
	}{
		{[]specs.LinuxDeviceCgroup{denyAll, disk("r")}, "r"},
		{[]specs.LinuxDeviceCgroup{denyAll, disk("mrw")}, "rwm"},
		{[]specs.LinuxDeviceCgroup{denyAll, disk("r"), disk("rwm")}, "rwm"},
		{[]specs.LinuxDeviceCgroup{denyAll, null}, ""},
		{[]specs.LinuxDeviceCgroup{denyAll, mknod}, "m"},
		{[]specs.LinuxDeviceCgroup{denyAll, mknod, disk("r")}, "rm"},
		{[]specs.LinuxDeviceCgroup{disk("r"), allowAll}, "rwm"},
		{[]specs.LinuxDeviceCgroup{allowAll, denyAll}, ""},
		{[]specs.LinuxDeviceCgroup{allowAll, {Type: "b", Major: ptr(int64(7)), Access: "w"}}, "rm"},
		{[]specs.LinuxDeviceCgroup{allowAll, {Type: "b", Major: ptr(int64(8)), Access: "w"}}, "rwm"},
		{[]specs.LinuxDeviceCgroup{disk("r=x")}, ""},
		{[]specs.LinuxDeviceCgroup{disk("")}, ""},
		{[]specs.LinuxDeviceCgroup{allowAll, {Access: "everything"}}, ""},
		{nil, ""},
	} {
		if got := Access(withRules(tc.rules...), loop); got != tc.want {
			t.Errorf("%+v: %q, want %q", tc.rules, got, tc.want)
		}
	}
}

func TestOnlyDisksThatWerePluggedInReachTheGuest(t *testing.T) {
	s := full()
	s.Linux.Devices = append(s.Linux.Devices, specs.LinuxDevice{Path: "/dev/xvda", Type: "b", Major: 7})
	if _, _, err := For(s, Guest{ContainerID: "c1", Disks: []string{"/dev/other"}}); err == nil {
		t.Error("a disk of the host that was not plugged in went through")
	}
	out, _, err := For(s, Guest{ContainerID: "c1", Disks: []string{"/dev/xvda"}, DeviceRules: []specs.LinuxDeviceCgroup{denyAll, null}})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(out.Linux.Devices); n != 2 || !reflect.DeepEqual(out.Linux.Resources.Devices, []specs.LinuxDeviceCgroup{denyAll, null}) {
		t.Errorf("%d devices, rules %+v", n, out.Linux.Resources.Devices)
	}
	if r := s.Linux.Resources; r != nil && reflect.DeepEqual(r.Devices, out.Linux.Resources.Devices) {
		t.Error("the host's spec was changed")
	}
}

func TestADeviceOfAPrivilegedContainerIsTheHostsByItsPath(t *testing.T) {
	// No block device is sure to be on every host: what is not one of the host's by its path is somebody's choice.
	for _, tc := range []struct {
		d    specs.LinuxDevice
		want bool
	}{
		{specs.LinuxDevice{Path: "/dev/none/such", Type: "b", Major: 7}, false},
		{specs.LinuxDevice{Path: "/dev/null", Type: "b", Major: 1, Minor: 3}, false},
		{specs.LinuxDevice{Path: "/dev/null", Type: "c", Major: 1, Minor: 3}, true},
		{specs.LinuxDevice{Path: "/dev/null", Type: "c", Major: 1, Minor: 4}, false},
	} {
		if got := HasHostDevices(withRules(allowAll), tc.d); got != tc.want {
			t.Errorf("%+v: %v", tc.d, got)
		}
	}
}

func TestOnlyCharacterDevicesThatEveryLinuxHasReachTheGuest(t *testing.T) {
	hosts := specs.LinuxDevice{Path: "/dev/ptmx", Type: "c", Major: 5, Minor: 2} // one that every host has at this path
	for _, tc := range []struct {
		name string
		d    specs.LinuxDevice
		rule specs.LinuxDeviceCgroup
		want string // "" if it goes through, "left out", or what the error says
	}{
		{"one of all", specs.LinuxDevice{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}, denyAll, ""},
		{"one of all under another name", specs.LinuxDevice{Path: "/dev/sink", Type: "c", Major: 1, Minor: 3}, denyAll, ""},
		{"one of all to a privileged container", specs.LinuxDevice{Path: "/dev/null", Type: "c", Major: 1, Minor: 3}, allowAll, ""},
		{"a pipe", specs.LinuxDevice{Path: "/dev/pipe", Type: "p"}, denyAll, ""},
		{"the host's", specs.LinuxDevice{Path: "/dev/nvidia0", Type: "c", Major: 195}, denyAll, "/dev/nvidia0 (195:0)"},
		{"an unbuffered one", specs.LinuxDevice{Path: "/dev/nvidia0", Type: "u", Major: 195}, denyAll, "/dev/nvidia0"},
		{"the host's under the name of one of all", specs.LinuxDevice{Path: "/dev/fuse", Type: "c", Major: 195}, denyAll, "/dev/fuse"},
		{"the host's by its own path", hosts, denyAll, "/dev/ptmx"},
		{"all of the host's", hosts, allowAll, "left out"},
		{"a chosen one to a privileged container", specs.LinuxDevice{Path: "/dev/none/such", Type: "c", Major: 195}, allowAll, "/dev/none/such"},
	} {
		s := full()
		s.Linux.Devices, s.Linux.Resources.Devices = []specs.LinuxDevice{tc.d}, []specs.LinuxDeviceCgroup{tc.rule}
		out, _, err := For(s, Guest{ContainerID: "c1"})
		switch {
		case tc.want == "" || tc.want == "left out":
			if err != nil || (len(out.Linux.Devices) == 1) != (tc.want == "") {
				t.Errorf("%s: %+v, %v", tc.name, out, err)
			}
		case !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), tc.want):
			t.Errorf("%s: error %v", tc.name, err)
		}
		if len(s.Linux.Devices) != 1 {
			t.Errorf("%s: the host's spec was changed", tc.name)
		}
	}
}
