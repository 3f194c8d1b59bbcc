// Package volume gives direct volumes to the containers of one sandbox: it looks for the record behind a bind mount,
// claims the volume, plugs its device into the machine and says what the agent has to mount.
//
// The sandbox calls it for every bind mount, in this order:
//
//	use, err := set.Attach(ctx, container, mount.Source) // directvolume.ErrNotFound: an ordinary mount, share it
//	set.Expose(container)                                // the agent is about to be told: it may mount from now on
//	err = set.Detach(ctx, container)                     // only after the agent has unmounted
//	err = set.Release(ctx)                               // only after the machine is gone
//
// A device is plugged once per machine, however many containers and mounts use it, and mounted once in the guest.
// When its last container is gone it stays plugged and claimed as long as the sandbox lives and the record is there:
// the next container of the pod, a restarted one or the one after an init container, finds the same disk at the same
// place, and no unplug can overtake a mount. If the record is gone by then, it is unplugged and released at once.
//
// How a disk is plugged, how a record looks on disk, and every word of OCI and HTTP must never move in here.
package volume
