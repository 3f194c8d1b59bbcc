package claims

import (
	"slices"
	"strings"
	"time"

	"github.com/katadirect/katadirect/pkg/csi/facts"
	"github.com/katadirect/katadirect/pkg/csi/trouble"
)

// Conditions beside the reasons of docs/health.md and the phases of claims.
const (
	Healthy     = "Healthy"
	Unknown     = "Unknown"     // the volume's node could not be asked
	MachineGone = "MachineGone" // the machine that had it has ended without giving it back
	Frozen      = "Frozen"      // it stands still, for a snapshot most likely
	Resizing    = "Resizing"    // a larger size was asked for and is not there yet
	Failing     = "Failing"     // a call for it fails again and again; Wrong says which
)

// condition is how the volume is.
func condition(v Volume, now time.Time) string {
	if v.Phase != "Bound" && v.Phase != "Inline" {
		return v.Phase
	}
	if v.Facts == nil {
		return Unknown
	}
	var words []string
	for _, p := range v.Facts.Problems {
		words = append(words, p.Reason)
	}
	if v.Facts.HeldBy == facts.HeldByNobody && len(v.Facts.DeadSandboxes) > 0 {
		words = append(words, MachineGone)
	}
	if v.Facts.Machine != nil && v.Facts.Machine.FrozenSince != nil {
		words = append(words, Frozen)
	}
	if v.resizing() {
		words = append(words, Resizing)
	}
	if slices.ContainsFunc(v.Facts.Troubles, func(t facts.Trouble) bool { return t.Over == nil && now.Sub(t.Last) <= trouble.Recent }) {
		words = append(words, Failing)
	}
	if len(words) == 0 {
		return Healthy
	}
	return strings.Join(words, ",")
}

// resizing reports whether the claim has asked for more than it has.
func (v Volume) resizing() bool {
	if v.CapacityBytes > 0 && v.RequestedBytes > v.CapacityBytes {
		return true
	}
	return slices.ContainsFunc(v.conditions, func(c claimCondition) bool {
		return c.kind == "Resizing" || c.kind == "FileSystemResizePending"
	})
}
