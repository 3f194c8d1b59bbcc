package demo

import (
	"errors"

	"github.com/katadirect/katadirect/internal/accel"
)

// machinesRunBy looks at the running machine, by whatever way the shim has come to its choice.
func (s *session) machinesRunBy() (string, error) {
	for _, a := range []string{accel.KVM, accel.TCG} {
		pids, err := s.node.Lab.Find("qemu-system-x86_64", "-accel "+a)
		if err != nil || len(pids) > 0 {
			return a, err
		}
	}
	return "", errors.New("no machine runs")
}

// accelName is the accelerator for a person.
func accelName(name string) string {
	if name == accel.TCG {
		return "emulation (TCG), several times slower than KVM, of which this host has none that works"
	}
	return "KVM"
}
