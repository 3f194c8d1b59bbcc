package directvolume

import (
	"fmt"
	"strconv"
	"strings"
)

// Limits bound what a guest may do with a volume in a second. Zero is no limit. A limit of all operations, or bytes,
// cannot be together with one of only those that read or write.
type Limits struct {
	// Operations and bytes in a second, in total, or apart for reading and writing.
	IOPS                uint64 `json:"iops,omitempty"`
	ReadIOPS            uint64 `json:"readIops,omitempty"`
	WriteIOPS           uint64 `json:"writeIops,omitempty"`
	BytesPerSecond      uint64 `json:"bytesPerSecond,omitempty"`
	ReadBytesPerSecond  uint64 `json:"readBytesPerSecond,omitempty"`
	WriteBytesPerSecond uint64 `json:"writeBytesPerSecond,omitempty"`
	// What the total may rise to for BurstSeconds (1 if not given) after a time of less use.
	BurstIOPS           uint64 `json:"burstIops,omitempty"`
	BurstBytesPerSecond uint64 `json:"burstBytesPerSecond,omitempty"`
	BurstSeconds        uint64 `json:"burstSeconds,omitempty"`
}

// Bounds on the limits. Below the least a guest could not even mount its volume in the time that is given to it.
const (
	MinIOPS           = 10
	MinBytesPerSecond = 64 << 10
	maxPerSecond      = 1e12
	MaxBurstSeconds   = 3600
)

// limit is one of them: its name in JSON, in the text form and, after katadirect.io/, in a VolumeAttributesClass.
type limit struct {
	name        string
	value       *uint64
	least, most uint64
}

func (l *Limits) all() []limit {
	return []limit{
		{"iops", &l.IOPS, MinIOPS, maxPerSecond},
		{"readIops", &l.ReadIOPS, MinIOPS, maxPerSecond},
		{"writeIops", &l.WriteIOPS, MinIOPS, maxPerSecond},
		{"bytesPerSecond", &l.BytesPerSecond, MinBytesPerSecond, maxPerSecond},
		{"readBytesPerSecond", &l.ReadBytesPerSecond, MinBytesPerSecond, maxPerSecond},
		{"writeBytesPerSecond", &l.WriteBytesPerSecond, MinBytesPerSecond, maxPerSecond},
		{"burstIops", &l.BurstIOPS, MinIOPS, maxPerSecond},
		{"burstBytesPerSecond", &l.BurstBytesPerSecond, MinBytesPerSecond, maxPerSecond},
		{"burstSeconds", &l.BurstSeconds, 1, MaxBurstSeconds},
	}
}

// LimitNames are the names of all limits.
func LimitNames() []string {
	var names []string
	for _, l := range new(Limits).all() {
		names = append(names, l.name)
	}
	return names
}

// None reports whether nothing is limited.
func (l Limits) None() bool { return l == Limits{} }

// Set gives one limit, by its name, the value that text says; "0" takes it away. Whether it goes together with the
// others is for Validate.
func (l *Limits) Set(name, text string) error {
	for _, one := range l.all() {
		if one.name != name {
			continue
		}
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return fmt.Errorf("%s is %q, not a whole number", name, text)
		}
		if n != 0 && (n < one.least || n > one.most) {
			return fmt.Errorf("%s is %d; it can be %d to %d, or 0 for no limit", name, n, one.least, one.most)
		}
		*one.value = n
		return nil
	}
	return fmt.Errorf("there is no limit called %q", name)
}

// Validate says what is wrong with limits that QEMU would refuse or that could only be a mistake.
func (l Limits) Validate() error {
	for _, one := range l.all() {
		if n := *one.value; n != 0 && (n < one.least || n > one.most) {
			return fmt.Errorf("%s is %d; it can be %d to %d", one.name, n, one.least, one.most)
		}
	}
	switch {
	case l.IOPS != 0 && l.ReadIOPS+l.WriteIOPS != 0:
		return fmt.Errorf("iops limits all operations, so readIops and writeIops cannot be set as well; set one side to 0")
	case l.BytesPerSecond != 0 && l.ReadBytesPerSecond+l.WriteBytesPerSecond != 0:
		return fmt.Errorf("bytesPerSecond limits all bytes, so readBytesPerSecond and writeBytesPerSecond cannot be set as well; set one side to 0")
	case l.BurstIOPS != 0 && (l.IOPS == 0 || l.BurstIOPS < l.IOPS):
		return fmt.Errorf("burstIops is %d; it needs iops, and cannot be less than that", l.BurstIOPS)
	case l.BurstBytesPerSecond != 0 && (l.BytesPerSecond == 0 || l.BurstBytesPerSecond < l.BytesPerSecond):
		return fmt.Errorf("burstBytesPerSecond is %d; it needs bytesPerSecond, and cannot be less than that", l.BurstBytesPerSecond)
	case l.BurstSeconds != 0 && l.BurstIOPS+l.BurstBytesPerSecond == 0:
		return fmt.Errorf("burstSeconds is %d; it needs burstIops or burstBytesPerSecond", l.BurstSeconds)
	}
	return nil
}

// String is the form in which a record has them: "iops=200,bytesPerSecond=1048576"; "" for none.
func (l Limits) String() string {
	var parts []string
	for _, one := range l.all() {
		if *one.value != 0 {
			parts = append(parts, one.name+"="+strconv.FormatUint(*one.value, 10))
		}
	}
	return strings.Join(parts, ",")
}

// ParseLimits reads what String has written.
func ParseLimits(text string) (Limits, error) {
	var l Limits
	if text == "" {
		return l, nil
	}
	seen := map[string]bool{}
	for part := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(part, "=")
		if seen[name] {
			return Limits{}, fmt.Errorf("limits %q: %s twice", text, name)
		}
		seen[name] = true
		if err := l.Set(name, value); err != nil {
			return Limits{}, fmt.Errorf("limits %q: %w", text, err)
		}
	}
	if err := l.Validate(); err != nil {
		return Limits{}, fmt.Errorf("limits %q: %w", text, err)
	}
	return l, nil
}

// Limits are those of the record. One that was validated has no bad ones.
func (r Record) Limits() (Limits, error) { return ParseLimits(r.Metadata[MetadataLimits]) }
