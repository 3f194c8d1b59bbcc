package pool

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

func TestTheIndexIsInOrderWhateverComesAndGoes(t *testing.T) {
	var x index
	want := map[string]int64{}
	for i := range int64(2000) {
		id := fmt.Sprint("v", rand.IntN(50))
		if rand.IntN(3) == 0 {
			x.drop(id)
			delete(want, id)
		} else {
			x.put(id, entry{volume: Volume{ID: id, SizeBytes: i}})
			want[id] = i
		}
		ids := slices.Sorted(maps.Keys(want))
		if !slices.Equal(x.ids, ids) || len(x.by) != len(want) {
			t.Fatalf("the index has %v and %d entries; there are %v", x.ids, len(x.by), ids)
		}
		from := slices.IndexFunc(ids, func(other string) bool { return other > id })
		if after := x.after(id); from >= 0 && !slices.Equal(after, ids[from:]) || from < 0 && len(after) > 0 {
			t.Fatalf("after %s come %v, of %v", id, after, ids)
		}
	}
	for id, size := range want {
		if e, found := x.get(id); !found || e.volume.SizeBytes != size {
			t.Errorf("%s is %+v, %t", id, e, found)
		}
	}
}

func TestVolumesOfOneClassShareItsParametersAndNoOthers(t *testing.T) {
	var x index
	class := func(n int) map[string]string { return map[string]string{"class": fmt.Sprint(n)} }
	at := func(id string) uintptr { return reflect.ValueOf(x.by[id].volume.Parameters).Pointer() }
	for n := range 20 { // more classes than are remembered
		for _, name := range []string{"a", "b"} {
			id := fmt.Sprint(name, n)
			x.put(id, entry{volume: Volume{ID: id, Parameters: class(n)}})
		}
		if a, b := fmt.Sprint("a", n), fmt.Sprint("b", n); at(a) != at(b) {
			t.Errorf("%s and %s do not share their parameters", a, b)
		}
	}
	x.put("none", entry{volume: Volume{ID: "none", Parameters: map[string]string{}}})
	for id, e := range x.by {
		want := class(0)
		if id == "none" {
			want = nil
		} else {
			want["class"] = id[1:]
		}
		if !maps.Equal(e.volume.Parameters, want) {
			t.Errorf("%s has the parameters %v, want %v", id, e.volume.Parameters, want)
		}
	}
}
