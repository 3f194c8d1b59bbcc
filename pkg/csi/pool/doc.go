// Package pool keeps volumes as sparse raw image files in a folder of the node:
//
//	<pool>/kd-1f0a6c3e-9b5d…/disk.img      the volume's bytes; its length is the volume's size
//	<pool>/kd-1f0a6c3e-9b5d…/volume.json   what it was asked to be: name, file system, parameters
//	<pool>/ks-…/disk.img, snapshot.json    what a volume held at one moment, and which volume, when
//	<pool>/kg-…/group.json                 which snapshots are of the same moment
//	<pool>/.making-…                       a copy that is not whole yet (draft.go)
//
// There is no index file that could tear or disagree: the index in memory is rebuilt from the folders when the pool is
// opened. A volume's id is derived from its name, so a create that is repeated finds what the first one made.
//
// What may be deleted without being asked? Only what cannot hold a byte of anybody's data: a folder whose creation
// was cut short (volume.json is missing or unreadable AND the image has no allocated block), a copy that was cut short,
// a snapshot whose group is gone or was never finished, and a folder that a deletion had already renamed away. Everything else that looks wrong is reported as damaged and kept.
//
// The pool promises no more than it can hold: the images are thin, and what is promised counts, not what is written.
//
// Package csi is the caller. It holds a lock per volume; the pool only keeps its own accounts consistent, so two
// calls for one volume must not run at once, and calls for different volumes never wait for each other longer than
// the disk takes. gRPC, records, sandboxes and mounts must never move in here.
package pool
