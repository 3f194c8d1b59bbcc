// Package calltimes keeps count of how long calls took, in the buckets that Kata's metrics have. The shim's two sides use
// it, towards containerd and towards the agent; what a call is, and how the figures are told, must never move in here.
package calltimes

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// BucketsMilliseconds are the upper ends of the buckets; they are Kata's.
var BucketsMilliseconds = [...]float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512}

// Of is how long the calls of one kind took.
type Of struct {
	// Action is the kind of call, as Kata's metrics name it.
	Action string
	// Buckets count the calls that took at most so long; each includes those before it.
	Buckets         [len(BucketsMilliseconds)]uint64
	Count           uint64
	SumMilliseconds float64
}

// Times keeps count. The zero value is ready; its methods may be called from several goroutines. The caller sees to it
// that there are not too many kinds.
type Times struct {
	mu       sync.Mutex
	byAction map[string]*Of
}

// Took counts one call.
func (t *Times) Took(action string, d time.Duration) {
	ms := float64(d) / float64(time.Millisecond)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byAction == nil {
		t.byAction = make(map[string]*Of)
	}
	of := t.byAction[action]
	if of == nil {
		of = &Of{Action: action}
		t.byAction[action] = of
	}
	of.Count++
	of.SumMilliseconds += ms
	for i, most := range BucketsMilliseconds {
		if ms <= most {
			of.Buckets[i]++
		}
	}
}

// All is what was counted, sorted by action.
func (t *Times) All() []Of {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []Of
	for _, of := range t.byAction {
		all = append(all, *of)
	}
	slices.SortFunc(all, func(a, b Of) int { return strings.Compare(a.Action, b.Action) })
	return all
}
