// Package directvolume is the contract between a CSI driver and a virtual machine runtime about volumes that the
// guest mounts itself. It owns three things:
//
//   - records: one folder per published volume that says which device stands behind a path (Store);
//   - claims and leases: which sandbox has the volume now, and whether that sandbox still lives (Store, Sandboxes);
//   - the management socket of a running sandbox: the words both sides use, and the client (Client).
//
// Place, names, modes and JSON are those of Kata Containers 4.1, so that either side can be exchanged for Kata's.
// docs/record.md draws the path of the data.
//
// A CSI driver publishes, measures, grows and unpublishes:
//
//	store := directvolume.NewStore("")
//	err := store.Add(ctx, targetPath, directvolume.Record{Device: "/dev/vg/lv", FSType: "ext4"})
//	id, err := store.SandboxFor(ctx, targetPath)
//	stats, err := directvolume.NewClient(id).Stats(ctx, "/dev/vg/lv")
//	err = directvolume.NewClient(id).Resize(ctx, "/dev/vg/lv", 2<<30)
//	err = store.Remove(ctx, targetPath)
//
// A runtime holds its lease, claims, and releases:
//
//	lease, err := directvolume.AcquireLease(sandboxID) // the hypervisor inherits the descriptor
//	record, err := store.Claim(ctx, mountSource, sandboxID)
//	err = store.Release(ctx, mountSource, sandboxID)
//
// Any vendor's driver can import this package alone: it uses the standard library and golang.org/x/sys, and a test
// holds it to that. What a volume is made of (pools, images), how a disk is plugged, and every word of gRPC,
// Kubernetes or QEMU must never move in here.
package directvolume
