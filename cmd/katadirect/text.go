package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/katadirect/katadirect/internal/inventory"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// printable makes a string safe for a terminal. Paths and what a guest says may hold anything.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

// humanBytes prints a size in the largest binary unit of which there is at least one.
func humanBytes[N int64 | uint64](n N) string {
	if n <= 0 {
		return "-"
	}
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	value, unit := float64(n), 0
	for value >= 1024 {
		value /= 1024
		unit++
	}
	return strings.Replace(fmt.Sprintf("%.1f %s", value, units[unit]), ".0 ", " ", 1)
}

// orNone names an empty list.
func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func used(v inventory.Volume) string {
	if v.Stats == nil {
		return "-"
	}
	usage, ok := v.Stats.Of(directvolume.UnitBytes)
	if !ok || usage.Total == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f%%", 100*float64(usage.Used)/float64(usage.Total))
}

// shortIDs prints sandbox ids as crictl does.
func shortIDs(ids []string) string {
	if len(ids) == 0 {
		return "-"
	}
	short := make([]string, len(ids))
	for i, id := range ids {
		short[i] = id[:min(len(id), 13)]
	}
	return strings.Join(short, ",")
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
