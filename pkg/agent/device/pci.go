package device

import (
	"fmt"
	"strconv"
	"strings"
)

// pxbFirstBus is the lowest bus number that Kata's shims give to a PCI
// expander bridge, which is a root of its own beside bus 00.
const pxbFirstBus = 0x20

// PCIPath is the way to a device from its root bus: the slot of each bridge on
// the way, and at last the device's own. Numbers differ between guests' buses,
// slots do not.
type PCIPath struct {
	// Root is the root bus: 0, or that of an expander bridge.
	Root  uint8
	Slots []PCISlot
}

// PCISlot is a device and function number on one bus.
type PCISlot struct {
	Device   uint8 // 0 to 31
	Function uint8 // 0 to 7
}

// ParsePCIPath reads a path as Kata's shims write it: hexadecimal slots joined
// by "/", each "SS" or "SS.F". A first component of 20 or more, with at least
// two after it, names the bus of an expander bridge.
func ParsePCIPath(s string) (PCIPath, error) {
	parts := strings.Split(s, "/")
	var p PCIPath
	if len(parts) >= 3 {
		if bus, err := strconv.ParseUint(parts[0], 16, 8); err == nil && bus >= pxbFirstBus {
			p.Root = uint8(bus)
			parts = parts[1:]
		}
	}
	for _, part := range parts {
		slot, err := parsePCISlot(part)
		if err != nil {
			return PCIPath{}, fmt.Errorf("PCI path %q: %w", s, err)
		}
		p.Slots = append(p.Slots, slot)
	}
	return p, nil
}

func parsePCISlot(s string) (PCISlot, error) {
	device, function, hasFunction := strings.Cut(s, ".")
	d, err := parseHex(device, 2, 31)
	if err != nil {
		return PCISlot{}, fmt.Errorf("slot %q: %w", s, err)
	}
	if !hasFunction {
		return PCISlot{Device: d}, nil
	}
	f, err := parseHex(function, 1, 7)
	if err != nil {
		return PCISlot{}, fmt.Errorf("slot %q: %w", s, err)
	}
	return PCISlot{Device: d, Function: f}, nil
}

func parseHex(s string, maxLen int, maxValue uint64) (uint8, error) {
	v, err := strconv.ParseUint(s, 16, 8)
	if err != nil || len(s) > maxLen || v > maxValue || strings.HasPrefix(s, "+") {
		return 0, fmt.Errorf("%w: want a hexadecimal number up to %x", ErrAddress, maxValue)
	}
	return uint8(v), nil
}

// String is the path as ParsePCIPath reads it.
func (p PCIPath) String() string {
	var parts []string
	if p.Root != 0 {
		parts = append(parts, fmt.Sprintf("%02x", p.Root))
	}
	for _, s := range p.Slots {
		if s.Function == 0 {
			parts = append(parts, fmt.Sprintf("%02x", s.Device))
		} else {
			parts = append(parts, s.String())
		}
	}
	return strings.Join(parts, "/")
}

// String is the slot as sysfs names it after the bus: "02.0".
func (s PCISlot) String() string { return fmt.Sprintf("%02x.%x", s.Device, s.Function) }
