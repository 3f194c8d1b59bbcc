package condition

import (
	"slices"
	"strings"
)

// WentReadOnly reports whether the options of a file system itself, the last column of mountinfo, say that it takes no
// writes. ext4 says it in words of its own since Linux 6.15: with errors=remount-ro it is no longer "ro" after an error,
// only does not write.
func WentReadOnly(superOptions string) bool {
	options := strings.Split(superOptions, ",")
	return slices.Contains(options, "ro") || slices.Contains(options, "emergency_ro") || slices.Contains(options, "shutdown")
}
