package qemu

import (
	"errors"
	"testing"

	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

func TestAddressesAreKatas(t *testing.T) {
	for _, tc := range []struct {
		at     address
		source string
		bus    string
	}{
		{address{VirtioBlk, 0}, "02/01", "pci-bridge-0"},
		{address{VirtioBlk, 9}, "02/0a", "pci-bridge-0"},
		{address{VirtioBlk, 29}, "02/1e", "pci-bridge-0"},
		{address{VirtioBlk, 30}, "03/01", "pci-bridge-1"},
		{address{VirtioBlk, 149}, "06/1e", "pci-bridge-4"},
		{address{VirtioSCSI, 0}, "0:0", "scsi0.0"},
		{address{VirtioSCSI, 255}, "0:255", "scsi0.0"},
		{address{VirtioSCSI, 256}, "1:0", "scsi0.0"},
		{address{VirtioSCSI, 1000}, "3:232", "scsi0.0"},
	} {
		if got := tc.at.guest().Source; got != tc.source {
			t.Errorf("%+v is %s for the guest, want %s", tc.at, got, tc.source)
		}
		if got := tc.at.device("d", "n", "s")["bus"]; got != tc.bus {
			t.Errorf("%+v is on %v, want %s", tc.at, got, tc.bus)
		}
	}
}

func TestTheLowestFreePlaceIsTakenUntilThereIsNone(t *testing.T) {
	p := newPlaces(Config{BlockDriver: VirtioBlk, Bridges: 2})
	for n := range 60 {
		if at, err := p.take(); err != nil || at.n != n {
			t.Fatalf("place %d: %+v, %v", n, at, err)
		}
	}
	if _, err := p.take(); !errors.Is(err, vm.ErrNoSlot) {
		t.Errorf("place 60 of 60: %v, want ErrNoSlot", err)
	}
	p.free(address{VirtioBlk, 41})
	p.free(address{VirtioBlk, 17})
	if at, err := p.take(); err != nil || at.n != 17 {
		t.Errorf("took %+v, %v; want 17", at, err)
	}
}
