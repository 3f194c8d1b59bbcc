package csi

import (
	"slices"
	"sync"
)

// locks are held by name, and never waited for: whoever comes second is told so. The zero value is ready.
type locks struct {
	mu   sync.Mutex
	held map[string]struct{} // guarded by mu
}

// try takes all names at once, or none of them and returns the first that is held. Names that are empty are left
// out: the request they come from is about to be refused.
func (l *locks) try(names ...string) (release func(), taken string) {
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == "" })
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range names {
		if _, held := l.held[name]; held {
			return nil, name
		}
	}
	if l.held == nil {
		l.held = map[string]struct{}{}
	}
	for _, name := range names {
		l.held[name] = struct{}{}
	}
	return func() { l.release(names) }, ""
}

func (l *locks) release(names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range names {
		delete(l.held, name)
	}
}
