package config

import (
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"time"
)

// What some keys may be.
var (
	shareCaches   = []string{"never", "none", "auto", "always", "metadata"}
	networkModels = []string{NetworkTCFilter, NetworkMacvtap, NetworkPasst, NetworkNone}
)

// seconds sets a time-out; 0 leaves the default, as in Kata.
func seconds(key string, n *int, to *time.Duration) error {
	if n == nil || *n == 0 {
		return nil
	}
	if *n < 0 || *n > math.MaxInt32 {
		return wrong(key, "%s = %d is not a number of seconds", key, *n)
	}
	*to = time.Duration(*n) * time.Second
	return nil
}

func oneOf(key, value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return wrong(key, "%s = %q is not supported: it may be %q", key, value, allowed)
}

func atLeast(key string, value, least int) error {
	if value >= least {
		return nil
	}
	return wrong(key, "%s = %d is below %d", key, value, least)
}

// absolute wants paths that mean the same wherever the shim is started.
func absolute(key string, paths ...string) error {
	for _, path := range paths {
		if path != "" && !filepath.IsAbs(path) {
			return wrong(key, "%s: %q is not an absolute path", key, path)
		}
	}
	return nil
}

// patterns wants regular expressions.
func patterns(key string, list []string) error {
	for _, pattern := range list {
		if _, err := regexp.Compile(pattern); err != nil {
			return wrong(key, "%s: %w", key, err)
		}
	}
	return nil
}

// globs wants patterns of paths, as glob(3) has them.
func globs(key string, list []string) error {
	for _, pattern := range list {
		if _, err := filepath.Match(pattern, ""); err != nil {
			return wrong(key, "%s: %q: %w", key, pattern, err)
		}
	}
	return nil
}
