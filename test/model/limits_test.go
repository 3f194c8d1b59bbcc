package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// limits are those that a volume has, two of all there are; 0 is none.
type limits struct {
	IOPS           uint64 `json:"iops"`
	BytesPerSecond uint64 `json:"bytesPerSecond"`
}

// String is the form in which a record has them.
func (l limits) String() string {
	var all []string
	if l.IOPS != 0 {
		all = append(all, fmt.Sprint("iops=", l.IOPS))
	}
	if l.BytesPerSecond != 0 {
		all = append(all, fmt.Sprint("bytesPerSecond=", l.BytesPerSecond))
	}
	return strings.Join(all, ",")
}

// limit is the one that a step changes, and to what: now and then it takes it away. The other one stays.
func (s step) limit() (name string, value uint64) {
	name = []string{"iops", "bytesPerSecond"}[s.mark%2]
	if s.mark%16 < 4 {
		return name, 0
	}
	return name, 100_000 + s.mark%1000
}

// after are the limits after a step that changes one.
func (l limits) after(s step) limits {
	switch name, value := s.limit(); name {
	case "iops":
		l.IOPS = value
	default:
		l.BytesPerSecond = value
	}
	return l
}

// auditLimits looks at what the pool keeps: no file is no limit.
func (w *world) auditLimits(i int, v volume) error {
	var kept limits
	data, err := os.ReadFile(filepath.Join(w.Pool(), w.ids[i], "limits.json"))
	if err == nil {
		err = json.Unmarshal(data, &kept)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) || kept != v.limits {
		return fmt.Errorf("volume %d has the limits %q (%v), and should have %q", i, kept, err, v.limits)
	}
	return nil
}
