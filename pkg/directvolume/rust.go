package directvolume

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Kata's Rust shim (runtime-rs) serves the same two paths in words of its own. See docs/record.md.

// rustResizeRequest is its body of PathResize.
type rustResizeRequest struct {
	GuestPath string `json:"volume_guest_path"`
	Size      uint64 `json:"size"`
}

// parseStats reads the JSON of the Go shim, or the text of the Rust shim.
func parseStats(body []byte) (VolumeStats, error) {
	if text := string(body); strings.HasPrefix(strings.TrimSpace(text), "Usage:") {
		return parseRustStats(text)
	}
	var stats VolumeStats
	if err := json.Unmarshal(body, &stats); err != nil {
		return VolumeStats{}, fmt.Errorf("the shim's answer is not volume stats: %w", err)
	}
	return stats, nil
}

var (
	rustField    = regexp.MustCompile(`\b(available|total|used|unit): ?(\w+)`)
	rustAbnormal = regexp.MustCompile(`\babnormal: ?true\b`)
	rustMessage  = regexp.MustCompile(`\bmessage: ?("(?:[^"\\]|\\.)*")`)
)

// parseRustStats reads the debug text of Rust's generated types:
//
//	Usage: [VolumeUsage { available: 10, total: 30, used: 20, unit: BYTES, … }, …] Volume Condition: VolumeCondition { … }
//
// Older generators leave out names, braces and zeros. The unit ends a usage in all of them.
func parseRustStats(text string) (VolumeStats, error) {
	usages, condition, _ := strings.Cut(text, "Volume Condition:")
	var stats VolumeStats
	var usage VolumeUsage
	for _, field := range rustField.FindAllStringSubmatch(usages, -1) {
		if field[1] == "unit" {
			usage.Unit = map[string]Unit{"BYTES": UnitBytes, "INODES": UnitInodes}[field[2]]
			stats.Usage = append(stats.Usage, usage)
			usage = VolumeUsage{}
			continue
		}
		n, err := strconv.ParseUint(field[2], 10, 64)
		if err != nil {
			return VolumeStats{}, fmt.Errorf("the shim's answer is not volume stats: %w", err)
		}
		switch field[1] {
		case "available":
			usage.Available = n
		case "total":
			usage.Total = n
		case "used":
			usage.Used = n
		}
	}
	stats.Condition.Abnormal = rustAbnormal.MatchString(condition)
	if quoted := rustMessage.FindStringSubmatch(condition); quoted != nil {
		if message, err := strconv.Unquote(quoted[1]); err == nil {
			stats.Condition.Message = message
		}
	}
	return stats, nil
}
