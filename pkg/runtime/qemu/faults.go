package qemu

import (
	"sync"

	"github.com/katadirect/katadirect/pkg/runtime/qmp"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// faults counts, by disk id, the guest's requests that failed on the host. A guest can cause as many as it likes, but only
// of disks that it has.
type faults struct {
	mu   sync.Mutex
	byID map[string]vm.DiskFaults // guarded by mu
}

// see is called for every event, in the reader's goroutine.
func (f *faults) see(e qmp.Event) {
	data := ioError(e)
	if !data.reachesGuest() || data.disk() == "" {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byID == nil {
		f.byID = map[string]vm.DiskFaults{}
	}
	one := f.byID[data.disk()]
	if data.Operation == "write" {
		one.Writes++
	} else {
		one.Reads++
	}
	one.Last, one.Reason = e.Time, data.Reason
	f.byID[data.disk()] = one
}

func (f *faults) of(id string) vm.DiskFaults {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.byID[id]
}

// forget is for a disk that is plugged anew under an old id.
func (f *faults) forget(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.byID, id)
}

// DiskFaults implements vm.Machine.
func (m *Machine) DiskFaults(id string) vm.DiskFaults {
	run, err := m.control()
	if err != nil {
		return vm.DiskFaults{}
	}
	return run.watch.faults.of(id)
}
