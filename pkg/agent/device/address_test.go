package device

import (
	"errors"
	"slices"
	"testing"
)

func TestPCIPathsAreReadAsKatasShimsWriteThem(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want PCIPath
	}{
		{"05", PCIPath{Slots: []PCISlot{{Device: 5}}}},
		{"02/01", PCIPath{Slots: []PCISlot{{Device: 2}, {Device: 1}}}},
		{"1f.7/1e", PCIPath{Slots: []PCISlot{{Device: 31, Function: 7}, {Device: 30}}}},
		{"02/00/01", PCIPath{Slots: []PCISlot{{Device: 2}, {}, {Device: 1}}}},
		{"20/00/01", PCIPath{Root: 0x20, Slots: []PCISlot{{}, {Device: 1}}}},
		{"ff/00/01", PCIPath{Root: 0xff, Slots: []PCISlot{{}, {Device: 1}}}},
	} {
		got, err := ParsePCIPath(tc.in)
		if err != nil || got.Root != tc.want.Root || !slices.Equal(got.Slots, tc.want.Slots) {
			t.Errorf("%q: %+v, %v; want %+v", tc.in, got, err, tc.want)
		}
		if got.String() != tc.in {
			t.Errorf("%q is written as %q", tc.in, got)
		}
	}
}

func TestWhatIsNoPCIPathIsRefused(t *testing.T) {
	for _, in := range []string{"", "/", "02/", "/01", "02//01", "20/01", "20", "002", "+2", "-2", "02.8", "02.", "02.1.1",
		"0x2", "../../x", "02/01\n", "02 /01", "/dev/vda", "g0"} {
		if got, err := ParsePCIPath(in); !errors.Is(err, ErrAddress) {
			t.Errorf("%q: %+v, %v; want ErrAddress", in, got, err)
		}
	}
}

func TestSCSIAddresses(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want SCSIAddress
	}{
		{"0:0", SCSIAddress{}},
		{"0:255", SCSIAddress{LUN: 255}},
		{"255:16383", SCSIAddress{ID: 255, LUN: 16383}},
	} {
		if got, err := ParseSCSIAddress(tc.in); err != nil || got != tc.want || got.String() != tc.in {
			t.Errorf("%q: %v, %v; want %v", tc.in, got, err, tc.want)
		}
	}
	for _, in := range []string{"", "0", ":", "0:", ":0", "256:0", "0:16384", "-1:0", "+1:0", "0:0:0", "0x1:0", "a:b", "0:0\n"} {
		if got, err := ParseSCSIAddress(in); !errors.Is(err, ErrAddress) {
			t.Errorf("%q: %v, %v; want ErrAddress", in, got, err)
		}
	}
}

// What is accepted has one meaning: written and read again it is the same, and it stays in its bounds.
func FuzzPCIPath(f *testing.F) {
	for _, seed := range []string{"02/01", "20/00/01", "1f.7", "", "ff/ff/ff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		p, err := ParsePCIPath(in)
		if err != nil {
			return
		}
		again, err := ParsePCIPath(p.String())
		if err != nil || again.Root != p.Root || !slices.Equal(again.Slots, p.Slots) {
			t.Errorf("%q is %+v, written as %q, and read again as %+v, %v", in, p, p, again, err)
		}
		for _, s := range p.Slots {
			if s.Device > 31 || s.Function > 7 {
				t.Errorf("%q has the impossible slot %v", in, s)
			}
		}
	})
}

func FuzzSCSIAddress(f *testing.F) {
	for _, seed := range []string{"0:0", "255:16383", "1:", "a:b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		a, err := ParseSCSIAddress(in)
		if err != nil {
			return
		}
		if again, err := ParseSCSIAddress(a.String()); err != nil || again != a || a.LUN > maxLUN {
			t.Errorf("%q is %v, and read again %v, %v", in, a, again, err)
		}
	})
}
