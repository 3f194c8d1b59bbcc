package volume

import (
	"fmt"
	"time"

	"github.com/katadirect/katadirect/internal/condition"
	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// withFaults adds to what the guest says of a volume what the machine knows of its disk: a guest may not have noticed,
// and cannot be trusted to tell.
func withFaults(c directvolume.VolumeCondition, f vm.DiskFaults) directvolume.VolumeCondition {
	if f.Reads+f.Writes == 0 {
		return c
	}
	problem := condition.Format(condition.Problem{Reason: condition.HostIOErrors, Message: fmt.Sprintf(
		"%d reads and %d writes of the machine failed on the host, the latest at %s: %s",
		f.Reads, f.Writes, f.Last.UTC().Format(time.RFC3339), f.Reason)})
	if c.Abnormal { // the host's word first: a guest's may be so long that the end is cut off
		problem += "; " + c.Message
	}
	return directvolume.VolumeCondition{Abnormal: true, Message: problem}
}
