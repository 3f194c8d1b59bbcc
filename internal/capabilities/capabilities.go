// Package capabilities says what this process may do: what a test expects of the kernel can depend on it.
package capabilities

import "golang.org/x/sys/unix"

// Has reports whether a capability of the first 32 (unix.CAP_SYS_RESOURCE, for instance) is in effect. The error is that
// of capget(2).
func Has(number uint) (bool, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	err := unix.Capget(&header, &data[0])
	return data[0].Effective&(1<<number) != 0, err
}
