package pool

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

const (
	idPrefix   = "kd-"
	nodeDigits = 8
	nameDigits = 32
	idBytes    = len(idPrefix) + nodeDigits + 1 + nameDigits

	// maxIDBytes is what CSI allows a volume id to be.
	maxIDBytes = 128
)

// makeID derives a volume's id from the node it is on and the name it was asked under:
// kd-<8 hex digits of the node's hash>-<32 hex digits of the name's hash>. The node's part lets a controller on
// another node see from the id alone that the volume is not its own.
func makeID(node, name string) string {
	return idPrefix + hexHash(node, nodeDigits) + "-" + hexHash(name, nameDigits)
}

func hexHash(s string, digits int) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])[:digits]
}

// ValidateID returns an ErrInvalidID for an id that must not get near a file system: empty, longer than CSI allows,
// or made of anything but letters, digits, "-", "_" and single dots. An id that passes may still belong to nobody.
func ValidateID(id string) error {
	switch {
	case id == "":
		return fmt.Errorf("%w: it is empty", ErrInvalidID)
	case len(id) > maxIDBytes:
		return fmt.Errorf("%w: it is %d bytes long, %d are allowed", ErrInvalidID, len(id), maxIDBytes)
	case strings.Contains(id, "..") || id[0] == '.':
		return fmt.Errorf("%w: %q", ErrInvalidID, id)
	}
	for _, c := range []byte(id) {
		letterOrDigit := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letterOrDigit && c != '-' && c != '_' && c != '.' {
			return fmt.Errorf("%w: %q", ErrInvalidID, id)
		}
	}
	return nil
}

// IsPoolID reports whether id is one that a pool on some node makes.
func IsPoolID(id string) bool {
	if len(id) != idBytes || !strings.HasPrefix(id, idPrefix) {
		return false
	}
	node, name, found := strings.Cut(id[len(idPrefix):], "-")
	return found && isHex(node, nodeDigits) && isHex(name, nameDigits)
}

func isHex(s string, digits int) bool {
	for _, c := range []byte(s) {
		if !('0' <= c && c <= '9' || 'a' <= c && c <= 'f') {
			return false
		}
	}
	return len(s) == digits
}

// idIsOf reports whether id was made on node.
func idIsOf(id, node string) bool {
	return IsPoolID(id) && strings.HasPrefix(id, idPrefix+hexHash(node, nodeDigits)+"-")
}

// idNames reports whether id was made from name, on whatever node.
func idNames(id, name string) bool {
	return strings.HasSuffix(id, "-"+hexHash(name, nameDigits))
}
