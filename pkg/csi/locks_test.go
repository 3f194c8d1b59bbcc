package csi

import "testing"

func TestNamesAreHeldAloneOrShared(t *testing.T) {
	var l locks
	one, taken := l.try(shared("a"), "b")
	if one == nil {
		t.Fatalf("%s is held by nobody", taken)
	}
	two, _ := l.try(shared("a"))
	if two == nil {
		t.Fatal("what is shared can be shared with more")
	}
	for _, names := range [][]string{{"a"}, {"b"}, {shared("b")}, {"c", "a"}} {
		if release, _ := l.try(names...); release != nil {
			t.Errorf("%v were not refused", names)
		}
	}
	one()
	if release, taken := l.try("a"); release != nil || taken != "a" {
		t.Errorf("held alone while somebody shares it; %q is taken", taken)
	}
	two()
	release, _ := l.try("a", "b", "c") // nothing is left of the refused ones
	if release == nil {
		t.Fatal("all are free")
	}
	release()
	if len(l.held) != 0 {
		t.Errorf("still held: %v", l.held)
	}
}
