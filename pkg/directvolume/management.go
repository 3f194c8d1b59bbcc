package directvolume

import (
	"net/url"
	"slices"
	"strings"
)

// The management socket speaks HTTP/1.1 on SocketPath, in the words of Kata's Go shim. A runtime serves these paths;
// every one of them is served to any method, as there. What it has beyond Kata's is in freeze.go.
const (
	PathStats    = "/direct-volume/stats"  // ?path=<host device>; answers VolumeStats as JSON
	PathResize   = "/direct-volume/resize" // takes a ResizeRequest as JSON; answers an empty 200
	PathAgentURL = "/agent-url"            // answers the agent's address as text, e.g. vsock://3:1024
	PathMetrics  = "/metrics"              // answers in Prometheus' text format

	// QueryPath is the query key of PathStats.
	QueryPath = "path"
)

// ResizeRequest is the body of PathResize. The keys are written as Kata writes them.
type ResizeRequest struct {
	// VolumePath is the host device of the record. It is not the path of the volume, in spite of its name.
	VolumePath string
	// Size is the new size in bytes.
	Size uint64
}

// VolumeStats is the answer of PathStats: the agent's VolumeStatsResponse as Kata's Go shim prints it.
type VolumeStats struct {
	Usage     []VolumeUsage   `json:"usage,omitempty"`
	Condition VolumeCondition `json:"volume_condition,omitzero"`
}

// VolumeUsage is one kind of room in the volume, in the unit it names.
type VolumeUsage struct {
	Available uint64 `json:"available,omitempty"`
	Total     uint64 `json:"total,omitempty"`
	Used      uint64 `json:"used,omitempty"`
	Unit      Unit   `json:"unit,omitempty"`
}

// Unit is what a VolumeUsage counts. Its numbers are the agent protocol's.
type Unit int

// The units of the agent protocol.
const (
	UnitUnknown Unit = iota
	UnitBytes
	UnitInodes
)

func (u Unit) String() string {
	switch u {
	case UnitBytes:
		return "bytes"
	case UnitInodes:
		return "inodes"
	}
	return "unknown"
}

// VolumeCondition is the volume's health as the guest sees it.
type VolumeCondition struct {
	Abnormal bool   `json:"abnormal,omitempty"`
	Message  string `json:"message,omitempty"`
}

// Of returns the usage in a unit, and whether there is one.
func (s VolumeStats) Of(unit Unit) (VolumeUsage, bool) {
	i := slices.IndexFunc(s.Usage, func(u VolumeUsage) bool { return u.Unit == unit })
	if i < 0 {
		return VolumeUsage{}, false
	}
	return s.Usage[i], true
}

// StatsQuery returns the query of PathStats for a device. Kata's server decodes the value twice, the second time as
// a path; so "%" is encoded once more, and what the first decoding would change ("+", "&") is encoded at all.
func StatsQuery(device string) string {
	return QueryPath + "=" + url.QueryEscape(strings.ReplaceAll(device, "%", "%25"))
}

// StatsDevices returns the devices that the raw query of a PathStats request may mean, the likeliest first: Kata's
// client encodes once and its server decodes twice, so for a device with "%" or "+" in its name they disagree. A
// server knows its devices and takes the first it has. Nothing is returned when there is no path in the query.
func StatsDevices(rawQuery string) []string {
	var devices []string
	add := func(device string, err error) {
		if err == nil && device != "" && !slices.Contains(devices, device) {
			devices = append(devices, device)
		}
	}
	for pair := range strings.SplitSeq(rawQuery, "&") {
		key, value, _ := strings.Cut(pair, "=")
		if key != QueryPath {
			continue
		}
		once, err := url.QueryUnescape(value)
		if err != nil {
			continue
		}
		add(url.PathUnescape(once)) // as Kata's server reads it
		add(once, nil)
		add(url.PathUnescape(value)) // as Kata's client meant a "+"
		break
	}
	return devices
}
