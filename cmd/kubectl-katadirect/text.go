package main

import (
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/katadirect/katadirect/internal/claims"
	"github.com/katadirect/katadirect/pkg/csi/facts"
)

const (
	none    = "<none>"
	unknown = "<unknown>" // as kubectl says it
)

// printable makes a string safe for a terminal. What a guest, a driver or an event says may hold anything.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

func orNone(s string) string {
	if s == "" {
		return none
	}
	return printable(s)
}

// bytesOf writes a size as Kubernetes does, in three digits.
func bytesOf(n int64) string {
	if n <= 0 {
		return "0"
	}
	units := []string{"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"}
	value, unit := float64(n), 0
	for value >= 1024 && unit < len(units)-1 {
		value /= 1024
		unit++
	}
	if value < 100 && value != math.Trunc(value) && unit > 0 {
		return strings.TrimSuffix(fmt.Sprintf("%.1f", value), ".0") + units[unit]
	}
	return fmt.Sprintf("%.0f%s", value, units[unit])
}

func percent(part, whole int64) string {
	if whole <= 0 {
		return none
	}
	return fmt.Sprintf("%.0f%%", 100*float64(part)/float64(whole))
}

// age is how long ago something was, as kubectl writes it.
func age(then, now time.Time) string {
	if then.IsZero() {
		return unknown
	}
	return duration.HumanDuration(max(0, now.Sub(then)))
}

// table writes columns as kubectl does.
type table struct{ *tabwriter.Writer }

func newTable(out io.Writer, heads ...string) table {
	t := table{tabwriter.NewWriter(out, 6, 4, 3, ' ', 0)}
	t.row(heads...)
	return t
}

func (t table) row(cells ...string) { fmt.Fprintln(t, strings.Join(cells, "\t")) }

// pods are the names of those that use a volume.
func pods(v claims.Volume) string {
	var names []string
	for _, p := range v.Pods {
		names = append(names, printable(p.Name))
	}
	return orNone(strings.Join(names, ","))
}

// sandbox is the machine that has a volume, shortened as crictl does.
func sandbox(f *facts.Volume) string {
	switch {
	case f == nil:
		return unknown
	case f.Machine != nil:
		id := printable(f.Machine.Sandbox)
		return id[:min(len(id), 13)]
	case f.HeldBy == facts.HeldByHost:
		return "(host)"
	}
	return none
}

func guestDevice(f *facts.Volume) string {
	switch {
	case f == nil, f != nil && f.Machine != nil && f.Machine.GuestDevice == "":
		return unknown
	case f.Machine == nil:
		return none
	}
	return printable(f.Machine.GuestDevice)
}

func fileSystem(f *facts.Volume) string {
	switch {
	case f == nil:
		return unknown
	case f.Block:
		return "(block)"
	}
	return orNone(f.FileSystem)
}

// usedOfSize is how full a volume is. Its size is the volume's: that of the file system in it is a little less.
func usedOfSize(v claims.Volume) string {
	if v.Facts == nil {
		return unknown + "/" + sizeOf(v)
	}
	if v.Facts.Usage == nil {
		return "-/" + sizeOf(v)
	}
	return bytesOf(v.Facts.Usage.UsedBytes) + "/" + sizeOf(v)
}

func sizeOf(v claims.Volume) string {
	switch {
	case v.Facts != nil:
		return bytesOf(v.Facts.SizeBytes)
	case v.CapacityBytes > 0:
		return bytesOf(v.CapacityBytes)
	case v.RequestedBytes > 0:
		return bytesOf(v.RequestedBytes)
	}
	return unknown
}

func snapshots(v claims.Volume) string {
	if v.Snapshots == nil {
		return "-"
	}
	return fmt.Sprint(len(v.Snapshots))
}
