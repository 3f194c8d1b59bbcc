package qemu

import (
	"flag"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestCommandLine(t *testing.T) {
	base := Config{ID: "sb1", Dir: "/run/vc/vm/sb1", Kernel: "/img/vmlinux", Initrd: "/img/initrd", Accel: AccelKVM}
	port := inherited{qmp: 3, console: 4}
	for _, tc := range []struct {
		name   string
		change func(*Config)
		fds    inherited
	}{
		{"kvm", func(*Config) {}, port},
		{"tcg-debug", func(c *Config) { c.Accel, c.Debug = AccelTCG, true }, port},
		{"share", func(c *Config) {
			c.ShareSocket, c.MemoryMiB, c.VCPUs = "/run/a,b/fs.sock", 512, 4
		}, port},
		{"vsock", func(c *Config) { c.KernelParams = []string{"panic=10", "agent.log=debug"} }, inherited{qmp: 3, console: 4, vsock: 5, cid: 77}},
		{"two-cards", func(c *Config) { c.VCPUs = 2 }, inherited{qmp: 3, console: 4, nics: []wiredNIC{
			{vm.NIC{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}, []int{5}, 0}, {vm.NIC{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}}, []int{6, 7}, 0},
		}}},
		{"passt", func(*Config) {}, inherited{qmp: 3, console: 4, nics: []wiredNIC{{vm.NIC{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}, nil, 5}}}},
		{"vhost-net", func(*Config) {}, inherited{qmp: 3, console: 4, vhost: true, nics: []wiredNIC{
			{vm.NIC{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}, []int{5}, 0},
		}}},
		{"iothread", func(c *Config) { c.IOThread = true }, port},
		{"growing", func(c *Config) { c.VCPUs, c.MaxVCPUs, c.MaxMemoryMiB, c.MemorySlots = 2, 8, 1<<20, 4 }, port},
		{"growing-emulated", func(c *Config) { c.Accel, c.MaxMemoryMiB, c.ShareSocket = AccelTCG, 1<<20, "/run/fs.sock" }, port},
		{"scsi-two-bridges", func(c *Config) { c.BlockDriver, c.Bridges = VirtioSCSI, 2 }, port},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := base
			tc.change(&c)
			c, err := c.withDefaults()
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			for _, arg := range arguments(c, tc.fds) {
				if strings.HasPrefix(arg, "-") && got.Len() > 0 {
					got.WriteByte('\n')
				} else if got.Len() > 0 {
					got.WriteByte(' ')
				}
				got.WriteString(arg)
			}
			got.WriteByte('\n')
			golden := filepath.Join("testdata", "command-"+tc.name+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Errorf("command line\n%s\nwant, by %s\n%s", got.String(), golden, want)
			}
		})
	}
}

func TestTheSameSandboxHasTheSameUUID(t *testing.T) {
	a, b := machineUUID("a"), machineUUID("b")
	if a == b || a != machineUUID("a") || len(a) != 36 || a[14] != '8' {
		t.Errorf("%s and %s", a, b)
	}
}
