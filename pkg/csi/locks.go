package csi

import (
	"slices"
	"strings"
	"sync"
)

// locks are held by name, and never waited for: whoever comes second is told so. A name can be held by one, or shared
// by many. The zero value is ready.
type locks struct {
	mu   sync.Mutex
	held map[string]int // how many share it, or alone; guarded by mu
}

const (
	heldAlone    = -1
	sharedPrefix = "shared:" // no id or path begins like this
)

// shared is the name for holding another name together with others who want no more than that.
func shared(name string) string { return sharedPrefix + name }

// try takes all names at once, or none of them and returns the first that is held. Names that are empty are left
// out: the request they come from is about to be refused.
func (l *locks) try(names ...string) (release func(), taken string) {
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == "" })
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range names {
		name, share := strings.CutPrefix(name, sharedPrefix)
		if holders := l.held[name]; holders == heldAlone || holders > 0 && !share {
			return nil, name
		}
	}
	if l.held == nil {
		l.held = map[string]int{}
	}
	for _, name := range names {
		if name, share := strings.CutPrefix(name, sharedPrefix); share {
			l.held[name]++
		} else {
			l.held[name] = heldAlone
		}
	}
	return func() { l.release(names) }, ""
}

func (l *locks) release(names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range names {
		name, _ := strings.CutPrefix(name, sharedPrefix)
		if l.held[name]--; l.held[name] <= 0 { // was alone, or is not shared any more
			delete(l.held, name)
		}
	}
}
