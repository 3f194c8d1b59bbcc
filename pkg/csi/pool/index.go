package pool

import (
	"maps"
	"slices"
)

// index is what is known of the pool's volumes, by id and in the order of the ids. The zero value is ready.
type index struct {
	by  map[string]entry
	ids []string // sorted
	// recent are the parameters that were put last, each once: most volumes of a node are of a few classes, and share them.
	recent [8]map[string]string
	oldest int
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
	e.volume.Parameters = x.shared(e.volume.Parameters)
	x.by[id] = e
}

// shared returns the same map for equal parameters, if it has seen them lately.
func (x *index) shared(parameters map[string]string) map[string]string {
	if len(parameters) == 0 {
		return nil
	}
	for _, known := range x.recent {
		if maps.Equal(known, parameters) {
			return known
		}
	}
	x.recent[x.oldest] = parameters
	x.oldest = (x.oldest + 1) % len(x.recent)
	return parameters
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
