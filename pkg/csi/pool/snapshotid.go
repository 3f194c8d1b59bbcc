package pool

import "strings"

// Snapshots and groups of them have ids of the same make as volumes, and another prefix: a folder says by its name
// what it holds.
const (
	snapshotPrefix = "ks-"
	groupPrefix    = "kg-"
)

// SnapshotID returns the id that a snapshot of that name has in this pool.
func (p *Pool) SnapshotID(name string) string { return withPrefix(snapshotPrefix, p.ID(name)) }

// GroupID returns the id that a group of snapshots of that name has in this pool.
func (p *Pool) GroupID(name string) string { return withPrefix(groupPrefix, p.ID(name)) }

// memberName is the name of the snapshot of one volume in a group. No caller's name has a NUL in it, so it is nobody
// else's.
func memberName(groupName, volumeID string) string { return groupName + "\x00" + volumeID }

// IsSnapshotID reports whether id is one that a pool on some node makes for a snapshot.
func IsSnapshotID(id string) bool { return hasForm(snapshotPrefix, id) }

// IsGroupID reports whether id is one that a pool on some node makes for a group of snapshots.
func IsGroupID(id string) bool { return hasForm(groupPrefix, id) }

// Foreign reports whether id is one that the pool of another node makes, for a volume or a snapshot.
func (p *Pool) Foreign(id string) bool {
	if rest, found := strings.CutPrefix(id, snapshotPrefix); found {
		id = idPrefix + rest
	}
	return IsPoolID(id) && !p.Local(id)
}

func withPrefix(prefix, volumeID string) string {
	return prefix + strings.TrimPrefix(volumeID, idPrefix)
}

func hasForm(prefix, id string) bool {
	rest, found := strings.CutPrefix(id, prefix)
	return found && IsPoolID(idPrefix+rest)
}

// isOurs reports whether a pool makes folders of that name.
func isOurs(name string) bool { return IsPoolID(name) || IsSnapshotID(name) || IsGroupID(name) }
