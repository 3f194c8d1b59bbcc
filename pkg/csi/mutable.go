package csi

import (
	"maps"
	"slices"
	"strings"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

// mutablePrefix stands before the names of limits in a VolumeAttributesClass. docs/storageclass.md is the reference.
const mutablePrefix = "katadirect.io/"

// change is what mutable parameters ask for: some of the limits. What they do not name stays as it is (CSI: "SPs MUST
// NOT modify volumes based on the absence of keys").
type change struct{ given map[string]string }

// parseChange checks mutable parameters, each for itself. An unknown key is an error that names it.
func parseChange(given map[string]string) (change, error) {
	var checked directvolume.Limits
	for _, key := range slices.Sorted(maps.Keys(given)) {
		name, ours := strings.CutPrefix(key, mutablePrefix)
		if !ours || !slices.Contains(directvolume.LimitNames(), name) {
			return change{}, failf(ErrInvalidArgument, "unknown mutable parameter %q; known are %s%s", key, mutablePrefix,
				strings.Join(directvolume.LimitNames(), ", "+mutablePrefix))
		}
		if err := checked.Set(name, given[key]); err != nil {
			return change{}, failf(ErrInvalidArgument, "mutable parameter %s%w", mutablePrefix, err)
		}
	}
	return change{given}, nil
}

// of returns what the limits become. It is ErrInvalidArgument when they do not go together with those that stay.
func (c change) of(l directvolume.Limits) (directvolume.Limits, error) {
	for key, value := range c.given {
		if err := l.Set(strings.TrimPrefix(key, mutablePrefix), value); err != nil {
			return l, failf(ErrInvalidArgument, "mutable parameter %s%w", mutablePrefix, err)
		}
	}
	if err := l.Validate(); err != nil {
		return l, failf(ErrInvalidArgument, "with these mutable parameters the volume would have the limits %s: %w", l, err)
	}
	return l, nil
}

func (c change) none() bool { return len(c.given) == 0 }
