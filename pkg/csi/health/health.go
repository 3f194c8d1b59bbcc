// Package health is what can be wrong with a volume or a pool, as the driver's services and the pool speak of it. It
// holds types and the reading of what guests say; who finds a problem makes it a Problem, and pkg/csi alone turns it
// into CSI's words.
package health

import (
	"github.com/katadirect/katadirect/internal/condition"
)

// Severity says what a problem means for whoever uses the volume.
type Severity int

const (
	// Degraded: it can be used, and somebody should look.
	Degraded Severity = iota
	// Inaccessible: it cannot be used as it is.
	Inaccessible
	// DataLoss: something of it is known, or strongly suspected, to be lost.
	DataLoss
)

// Problem is one thing that is wrong.
type Problem struct {
	Severity Severity
	// Reason is one CamelCase word for programs, Message a sentence for a person.
	Reason, Message string
}

// Reasons of the host, beside those that guests have (internal/condition).
const (
	// ImageMissing, ImageShort and VolumeDamaged: the volume's folder is not what it was.
	ImageMissing  = "ImageMissing"
	ImageShort    = "ImageShort"
	VolumeDamaged = "VolumeDamaged"
	// GuestSilent: the guest that has the volume does not answer.
	GuestSilent = "GuestNotResponding"
	// GuestUnable: it answers that it cannot tell.
	GuestUnable = "GuestCannotTell"
	// MachineStopped: the machine stands still, for the host has no room for what it writes.
	MachineStopped = "MachineStopped"
	// LimitsNotApplied: whoever has the volume has it without its I/O limits.
	LimitsNotApplied = "LimitsNotApplied"

	// The pool's.
	PoolUnreachable = "PoolUnreachable"
	PoolReadOnly    = "PoolReadOnly"
	PoolShort       = "PoolCannotKeepPromises"
	PoolNearlyFull  = "PoolNearlyFull"
	PoolFewInodes   = "PoolFewInodes"
	DamagedVolumes  = "DamagedVolumes"
)

// FromGuest reads the message of an abnormal condition. A guest can say what it likes, so nothing it says is worse
// than Inaccessible: that data is lost is for the host to find.
func FromGuest(message string) []Problem { return FromMount(condition.Parse(message)) }

// FromMount is what the one who has mounted a volume has found.
func FromMount(problems []condition.Problem) []Problem {
	var found []Problem
	for _, p := range problems {
		severity := Degraded
		if p.Reason == condition.Unreadable || p.Reason == condition.DeviceGone {
			severity = Inaccessible
		}
		found = append(found, Problem{Severity: severity, Reason: p.Reason, Message: p.Message})
	}
	return found
}

// Lasting keeps the problems that a volume still has when no machine has it any more: what is wrong with the mounted
// state has gone with it.
func Lasting(problems []Problem) []Problem {
	var found []Problem
	for _, p := range problems {
		switch p.Reason {
		case condition.FileSystemErrors, condition.HostIOErrors, condition.IOErrors:
			found = append(found, p)
		}
	}
	return found
}
