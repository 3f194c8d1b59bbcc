package csi

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
)

const (
	// leastMachineBytes is the memory of the host below which no pod's machine gets along, shim and all.
	leastMachineBytes = 128 << 20
	// placesInMachine are the disks of a machine with the bridge that it has by default (docs/volumes.md).
	placesInMachine = 30
)

// defaultMaxVolumes is how many volumes can be in use at once on a node with so much memory. An image by itself costs
// the host nothing; a volume in use is in one machine, which takes memory and has so many places.
func defaultMaxVolumes(memoryBytes int64) int {
	return max(1, int(memoryBytes/leastMachineBytes)) * placesInMachine
}

// memoryBytes is what the host has.
func memoryBytes() (int64, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("ask for the host's memory: %w", err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		fields := bytes.Fields(lines.Bytes())
		if len(fields) == 3 && string(fields[0]) == "MemTotal:" {
			kib, err := strconv.ParseInt(string(fields[1]), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("ask for the host's memory: /proc/meminfo does not say it")
}

// chooseMaxVolumes returns the limit to work with; 0 is the default.
func chooseMaxVolumes(given int) (int, error) {
	if given < 0 {
		return 0, failf(ErrInvalidArgument, "a limit of %d volumes: it cannot be negative", given)
	}
	if given > 0 {
		return given, nil
	}
	memory, err := memoryBytes()
	return defaultMaxVolumes(memory), err
}
