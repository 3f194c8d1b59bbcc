package main

import (
	"bufio"
	"context"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Once it serves, a driver goes on starting for a while: it connects to Kubernetes, reads what it watches there, and is
// asked by kubelet and the sidecars who it is. After that it has nothing to do most of the time.
const (
	startEnds  = 30 * time.Second
	pagesPause = 10 * time.Minute
)

// releasePagesNowAndThen releases pages when the start has ended, and then as often as it does no harm.
func releasePagesNowAndThen(ctx context.Context) {
	for pause := startEnds; ; pause = pagesPause {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
			releasePages()
		}
	}
}

// releasePages lets go of the program's own pages that were read until now. Most of them belong to the initialisation of
// libraries, or to a burst of calls, and are not needed again for long; those that are come back from the page cache one by
// one. It is only ever about read-only mappings of the program's file, whose content cannot be lost; failing changes nothing.
func releasePages() {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer maps.Close()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		// 00400000-014c6000 r-xp 00000000 fd:01 1234 /usr/bin/csi-node
		fields := strings.Fields(lines.Text())
		if len(fields) != 6 || fields[5] != program || strings.Contains(fields[1], "w") || !strings.HasSuffix(fields[1], "p") {
			continue
		}
		first, last, _ := strings.Cut(fields[0], "-")
		start, err1 := strconv.ParseUint(first, 16, 64)
		end, err2 := strconv.ParseUint(last, 16, 64)
		if err1 == nil && err2 == nil && start < end {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(start), uintptr(end-start), unix.MADV_DONTNEED)
		}
	}
}
