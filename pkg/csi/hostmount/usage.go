package hostmount

import (
	"context"
	"fmt"
	"time"

	"github.com/katadirect/katadirect/internal/condition"
	"github.com/katadirect/katadirect/internal/filesystem"
)

// lookPatience bounds how long a file system is waited for. Who waits for its disk may wait for good, and is left
// behind; so nobody else is sent after him.
const lookPatience = 2 * time.Second

// Look finds out how full a mounted file system is, and what is wrong with it. disk is the kernel's name of the device, writable whether it was mounted to be written to.
func (m *Mounts) Look(ctx context.Context, at filesystem.Mounted, disk string, writable bool) (usage filesystem.Usage, problems []condition.Problem, err error) {
	silent := fmt.Errorf("the file system at %s has not answered within %s", at.Target, lookPatience)
	if since, waiting := m.looking.LoadOrStore(at.Target, time.Now()); waiting && time.Since(since.(time.Time)) > lookPatience {
		return usage, nil, silent
	}
	ctx, cancel := context.WithTimeout(ctx, lookPatience)
	defer cancel()
	type answer struct {
		usage    filesystem.Usage
		problems []condition.Problem
		err      error
	}
	answered := make(chan answer, 1)
	go func() {
		defer m.looking.Delete(at.Target)
		usage, err := filesystem.Measure(at.Target)
		answered <- answer{usage, filesystem.Problems(at, disk, filesystem.Expected{Writable: writable}), err}
	}()
	select {
	case a := <-answered:
		return a.usage, a.problems, a.err
	case <-ctx.Done():
		return usage, nil, silent
	}
}
