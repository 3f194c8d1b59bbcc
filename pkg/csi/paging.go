package csi

import "strings"

// A page token names the last id of the page before. It says nothing about positions, so it stays right when entries
// are made or deleted between two pages, that last one included. To callers it is opaque.
const tokenPrefix = "after:"

func pageToken(lastID string) string { return tokenPrefix + lastID }

// parsePage checks what a List call may be asked for, and returns the id to go on after, "" for the beginning. A token
// that no page of this list can have ended with is ErrToken.
func parsePage(startingToken string, maxEntries int32, isID func(string) bool) (after string, err error) {
	if maxEntries < 0 {
		return "", failf(ErrInvalidArgument, "max_entries is %d; it cannot be negative", maxEntries)
	}
	if startingToken == "" {
		return "", nil
	}
	after, found := strings.CutPrefix(startingToken, tokenPrefix)
	if !found || !isID(after) {
		return "", failf(ErrToken, "the starting token is not one that this list has given; begin again without one")
	}
	return after, nil
}
