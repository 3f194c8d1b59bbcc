// Package demo shows the one thing the project exists for, in steps that a person can follow: a volume is made,
// recorded, plugged into a running machine, mounted in the guest, written, grown while the container runs, measured,
// unplugged, and read again by the next pod. "katadirect demo" runs it, and the tests under test/ run the same steps
// under each containerd and with things killed in between.
//
// Everything is real: the driver, the shim, containerd, the machine. What the report says of the guest was read
// inside the container. The demo makes no judgement of its own: Report.Check says what must hold.
package demo
