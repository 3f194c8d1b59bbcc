package demo

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/katadirect/katadirect/internal/lab"
)

// view is what a container sees of its machine and volume at one moment.
type view struct {
	guest      Guest
	sizeBytes  int64
	bootID     string
	startTicks uint64
	// df is the whole output, for a person.
	df string
}

// look reads everything in one exec, so that it belongs to one moment.
func look(ctx context.Context, c *lab.Container) (view, error) {
	out, err := c.Exec(ctx, "sh", "-c", `mount | grep " on `+dataDir+` " &&
		df -P -k `+dataDir+` && cat /proc/sys/kernel/random/boot_id /proc/1/stat && uname -r`)
	if err != nil {
		return view{}, err
	}
	v, err := parseView(out)
	if err != nil {
		return view{}, fmt.Errorf("look into the container: %w in %q", err, out)
	}
	return v, nil
}

// parseView reads six lines: the mount, df's heading and figures, the boot id, /proc/1/stat, the kernel.
func parseView(out string) (view, error) {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 6 {
		return view{}, fmt.Errorf("%d lines instead of 6", len(lines))
	}
	v := view{df: lines[1] + "\n" + lines[2], bootID: strings.TrimSpace(lines[3])}
	v.guest.MountLine, v.guest.Kernel = lines[0], lines[5]
	// DEVICE on PATH type FSTYPE (OPTIONS)
	if f := strings.Fields(lines[0]); len(f) >= 5 {
		v.guest.Device, v.guest.FSType = f[0], f[4]
	}
	var err error
	if f := strings.Fields(lines[2]); len(f) >= 2 {
		v.sizeBytes, err = strconv.ParseInt(f[1], 10, 64)
		v.sizeBytes *= 1024
	}
	if err != nil {
		return view{}, err
	}
	v.startTicks, err = startTicks(lines[4])
	return v, err
}

// startTicks is field 22 of /proc/PID/stat. The name in field 2 may hold anything, so fields count from its end.
func startTicks(stat string) (uint64, error) {
	const startTime, state = 22, 3
	nameEnd := strings.LastIndexByte(stat, ')')
	rest := strings.Fields(stat[nameEnd+1:])
	if nameEnd < 0 || len(rest) <= startTime-state {
		return 0, fmt.Errorf("not a line of /proc/PID/stat: %q", stat)
	}
	return strconv.ParseUint(rest[startTime-state], 10, 64)
}
