package soak

import (
	"bufio"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// figure is one thing that must not grow.
type figure struct {
	name  string
	value int64
	// slack is by how much it may be more at the end: what the allocators of Go and the kernel do by themselves.
	slack int64
	names []string // of what was counted, where that says more
}

type figures []figure

func (f figures) String() string {
	var b strings.Builder
	for _, one := range f {
		fmt.Fprintf(&b, "%s %d, ", one.name, one.value)
	}
	return strings.TrimSuffix(b.String(), ", ")
}

// settle is how long what was under way may take to be over, before it is measured.
const settle = 3 * time.Second

// measure looks at a pod at rest.
func (p *pod) measure(t *testing.T) figures {
	t.Helper()
	time.Sleep(settle)
	raw, err := p.node.Metrics(t.Context(), p.pod)
	must(t, err)
	metrics := parseMetrics(raw)
	metric := func(name string) int64 {
		t.Helper()
		if metrics[name] == 0 {
			t.Fatalf("the shim does not tell %s", name)
		}
		return metrics[name]
	}
	all := figures{
		{"shim's resident KiB", metric(`kata_shim_proc_status{item="vmrss"}`) >> 10, 3 << 10, nil},
		{"shim's goroutines", metric("kata_shim_go_goroutines"), 8, nil}, // idle connections of containerd's
		{"shim's threads", metric("kata_shim_threads"), 10, nil},         // Go starts one for a slow system call, and keeps it
		{"shim's files", metric("kata_shim_fds"), 6, nil},
		{"QEMU's files", metric("kata_hypervisor_fds"), 4, nil},
		{"guest's used KiB", p.guestUsed(t), 16 << 10, nil},
	}
	for name, words := range map[string]string{"shim": "containerd-shim-katadirect-v2", "virtiofsd": "virtiofsd", "QEMU": "qemu-system-x86_64"} {
		pids, err := p.node.Lab.Find(words)
		must(t, err)
		if len(pids) == 0 {
			t.Fatalf("there is no %s any more", name)
		}
		all = append(all, figure{name + "'s processes", int64(len(pids)), 0, nil},
			figure{"mounts that the " + name + " sees", countLines(t, fmt.Sprintf("/proc/%d/mountinfo", pids[0])), 0, nil})
		if name == "virtiofsd" {
			all = append(all, figure{"virtiofsd's files", p.filesOfVirtiofsd(t), 32, nil})
		}
	}
	inRun := p.filesInRun(t)
	all = append(all, figure{"files in /run", int64(len(inRun)), 0, inRun})
	slices.SortFunc(all, func(a, b figure) int { return strings.Compare(a.name, b.name) })
	return all
}

// filesOfVirtiofsd are those of the process that serves the share, which is in a process namespace of its own. It keeps
// one for each file that the guest remembers: of containers and configMaps that there are, which have not all looked at the
// same ones at each measuring.
func (p *pod) filesOfVirtiofsd(t *testing.T) (most int64) {
	t.Helper()
	pids, err := p.node.Lab.FindAll("virtiofsd")
	must(t, err)
	for _, pid := range pids {
		files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		must(t, err)
		most = max(most, int64(len(files)))
	}
	return most
}

// growth says what has grown.
func growth(before, after figures) []string {
	var complaints []string
	for i, b := range before {
		if a := after[i]; a.value > b.value+b.slack {
			complaint := fmt.Sprintf("%s: %d have become %d", b.name, b.value, a.value)
			for _, name := range a.names {
				if !slices.Contains(b.names, name) {
					complaint += "\n\tnew: " + name
				}
			}
			complaints = append(complaints, complaint)
		}
	}
	return complaints
}

// guestUsed is the guest's memory that nobody could have, in KiB.
func (p *pod) guestUsed(t *testing.T) int64 {
	t.Helper()
	said, err := p.members[3].now.Exec(t.Context(), "cat", "/proc/meminfo")
	must(t, err)
	m := parseMetrics([]byte(strings.ReplaceAll(said, ":", "")))
	if m["MemTotal"] == 0 || m["MemAvailable"] == 0 {
		t.Fatalf("no memory in %q", said)
	}
	return m["MemTotal"] - m["MemAvailable"]
}

// parseMetrics takes the first word of a line for a name and the second for its value.
func parseMetrics(raw []byte) map[string]int64 {
	all := map[string]int64{}
	for line := range bytes.Lines(raw) {
		if f := bytes.Fields(line); len(f) >= 2 {
			if v, err := strconv.ParseFloat(string(f[1]), 64); err == nil {
				all[string(f[0])] = int64(v)
			}
		}
	}
	return all
}

func countLines(t *testing.T, path string) int64 {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	var n int64
	for s := bufio.NewScanner(f); s.Scan(); {
		n++
	}
	return n
}

// filesInRun is what the shim, containerd and the driver keep there for the pod.
func (p *pod) filesInRun(t *testing.T) (names []string) {
	t.Helper()
	must(t, filepath.WalkDir(p.node.Lab.Path("/run"), func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() && filepath.Base(filepath.Dir(path)) == "mounts" {
			return fs.SkipDir // what is shared is the containers' own
		}
		if err == nil && !d.IsDir() {
			names = append(names, path)
		}
		return nil
	}))
	return names
}
