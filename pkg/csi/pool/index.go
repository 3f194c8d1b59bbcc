package pool

import "slices"

// index is what is known of the pool's volumes, by id and in the order of the ids. The zero value is ready.
type index struct {
	by  map[string]entry
	ids []string // sorted
}

func (x *index) get(id string) (entry, bool) {
	e, found := x.by[id]
	return e, found
}

func (x *index) put(id string, e entry) {
	if x.by == nil {
		x.by = map[string]entry{}
	}
	if i, found := slices.BinarySearch(x.ids, id); !found {
		x.ids = slices.Insert(x.ids, i, id)
	}
	x.by[id] = e
}

func (x *index) drop(id string) {
	if i, found := slices.BinarySearch(x.ids, id); found {
		x.ids = slices.Delete(x.ids, i, i+1)
	}
	delete(x.by, id)
}

// after returns the ids that come after one, which need not be there itself. They are the index's own.
func (x *index) after(id string) []string {
	i, found := slices.BinarySearch(x.ids, id)
	if found {
		i++
	}
	return x.ids[i:]
}
