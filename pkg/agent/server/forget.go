package server

import (
	"log/slog"
	"sync/atomic"
)

// forgets are the calls of Service.Forget after removed containers. For each name that the guest remembers virtiofsd keeps
// a file open, deleted or not. Names on what was mounted for the container alone go with that, a while later (sandbox: shares);
// these are the others, of folders that are still there. Nobody waits for the calls, and containers that are removed during one
// share the next.
type forgets struct{ wanted atomic.Int64 }

// call calls forget, unless somebody is about to: who is at it begins again for everyone who came meanwhile.
func (f *forgets) call(forget func() error) {
	if f.wanted.Add(1) > 1 {
		return
	}
	for {
		before := f.wanted.Load()
		if err := forget(); err != nil {
			slog.Warn("the names of a removed container's files are kept", "error", err)
		}
		if f.wanted.CompareAndSwap(before, 0) {
			return
		}
	}
}
