package directvolume

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
)

// processNames reports whether a process other than this one has the sandbox id in its command line the way shims
// and hypervisors have it: as an argument (containerd-shim-kata-v2 -id ID), as a machine's name (-name sandbox-ID,…)
// or as a folder in a path (/run/vc/vm/ID/…). It is the last thing asked, for sandboxes that left neither lease nor
// socket, so it reads all of proc without haste.
func processNames(procDir, id string) bool {
	entries, err := os.ReadDir(procDir)
	if err != nil {
		return true // cannot be found out: see Alive
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join(procDir, entry.Name(), "cmdline"))
		if err != nil {
			continue // it has just ended
		}
		for arg := range bytes.SplitSeq(cmdline, []byte{0}) {
			if argNames(arg, id) {
				return true
			}
		}
	}
	return false
}

func argNames(arg []byte, id string) bool {
	name, _, _ := bytes.Cut(arg, []byte(","))
	if string(name) == id || string(name) == "sandbox-"+id {
		return true
	}
	return bytes.Contains(arg, []byte("/"+id+"/"))
}
