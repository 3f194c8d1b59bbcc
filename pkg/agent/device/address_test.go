package device

import (
	"errors"
	"testing"
)

func TestPCIPathsAreReadAsKatasShimsWriteThem(t *testing.T) {
	for _, tc := range []struct {
		text, want string
		root       uint8
		slots      []PCISlot
	}{
		{"02/01", "02/01", 0, []PCISlot{{2, 0}, {1, 0}}},
		{"05", "05", 0, []PCISlot{{5, 0}}},
		{"02/00/01", "02/00/01", 0, []PCISlot{{2, 0}, {0, 0}, {1, 0}}},
		{"1e.0/1f.7", "1e/1f.7", 0, []PCISlot{{0x1e, 0}, {0x1f, 7}}},
		{"2/1", "02/01", 0, []PCISlot{{2, 0}, {1, 0}}},
		{"20/00/03", "20/00/03", 0x20, []PCISlot{{0, 0}, {3, 0}}},
		{"1f/00/03", "1f/00/03", 0, []PCISlot{{0x1f, 0}, {0, 0}, {3, 0}}},
	} {
		p, err := ParsePCIPath(tc.text)
		if err != nil {
			t.Errorf("%q: %v", tc.text, err)
			continue
		}
		if p.String() != tc.want || p.Root != tc.root || len(p.Slots) != len(tc.slots) {
			t.Errorf("%q: %+v, as text %q", tc.text, p, p)
			continue
		}
		for i, slot := range tc.slots {
			if p.Slots[i] != slot {
				t.Errorf("%q: slot %d is %+v, want %+v", tc.text, i, p.Slots[i], slot)
			}
		}
	}
}

func TestWhatIsNoPCIPathIsRefused(t *testing.T) {
	for _, text := range []string{
		"", "/", "02/", "/02", "20", "20/01", "3f/01", "02/01.8", "02/01.", "002/01", "+2/01", "-1", "02/0g", "0x2/01",
		"02/01/../..", "02 /01", "02.0.0", "02/01\n",
	} {
		if p, err := ParsePCIPath(text); !errors.Is(err, ErrAddress) {
			t.Errorf("%q: %+v, %v; want ErrAddress", text, p, err)
		}
	}
}

func FuzzParsePCIPath(f *testing.F) {
	for _, seed := range []string{"02/01", "20/00/03", "1e.0/1f.7", "05", "///", "02/01.8"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePCIPath(text)
		if err != nil {
			if !errors.Is(err, ErrAddress) {
				t.Errorf("%q: %v is no ErrAddress", text, err)
			}
			return
		}
		again, err := ParsePCIPath(p.String())
		if err != nil || again.String() != p.String() || again.Root != p.Root || len(again.Slots) != len(p.Slots) {
			t.Errorf("%q: %+v, and read again %+v, %v", text, p, again, err)
		}
	})
}

func TestSCSIAddresses(t *testing.T) {
	for text, want := range map[string]SCSIAddress{"0:0": {}, "1:255": {1, 255}, "255:16383": {255, 16383}} {
		if a, err := ParseSCSIAddress(text); err != nil || a != want || a.String() != text {
			t.Errorf("%q: %+v, %v", text, a, err)
		}
	}
	for _, text := range []string{"", ":", "1", "1:", ":1", "256:0", "0:16384", "-1:0", "0:0:0", "a:b", "0:0 ", "+1:0"} {
		if a, err := ParseSCSIAddress(text); !errors.Is(err, ErrAddress) {
			t.Errorf("%q: %+v, %v; want ErrAddress", text, a, err)
		}
	}
}

func FuzzParseSCSIAddress(f *testing.F) {
	f.Add("0:1")
	f.Add("255:16383")
	f.Add(":")
	f.Fuzz(func(t *testing.T, text string) {
		a, err := ParseSCSIAddress(text)
		if err != nil {
			return
		}
		if again, err := ParseSCSIAddress(a.String()); err != nil || again != a {
			t.Errorf("%q: %+v, and read again %+v, %v", text, a, again, err)
		}
	})
}
