package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/test/artifacts"
)

func TestMain(m *testing.M) { artifacts.Main(m) }

// patience bounds all of it, on a busy host.
const patience = 10 * time.Minute

// What a person does: make cluster, the line that it prints, two examples, make cluster-down with the pods running: one in a
// machine, and an ordinary one with a disk, which is two loop devices of the host.
func TestAClusterIsThereAndThenWithoutATrace(t *testing.T) {
	cluster := filepath.Join(artifacts.BinDir, "cluster")
	if said, err := exec.Command("go", "build", "-o", cluster, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	module, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	work := t.TempDir()
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir = work
		said, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, said)
		}
		return string(said)
	}
	t.Cleanup(func() {
		if t.Failed() {
			cmd := exec.Command(cluster, "down")
			cmd.Dir = work
			said, err := cmd.CombinedOutput()
			t.Logf("cluster down: %v\n%s", err, said)
		}
	})

	others := loopDevices(t)
	said := run(cluster, "up")
	printed := regexp.MustCompile(`export KUBECONFIG=\S+ PATH=\S+`).FindString(said)
	dir := regexp.MustCompile(`Its logs are in (\S+)/log\.`).FindStringSubmatch(said)
	if printed == "" || dir == nil {
		t.Fatalf("it does not say how to use it:\n%s", said)
	}
	disk := filepath.Join(work, "disk.yaml")
	ordinary(t, filepath.Join(module, "deploy/examples/raw-block.yaml"), disk)
	if got := run("sh", "-euc", printed+"; kubectl apply -f "+module+"/docs/example.yaml -f "+disk+" >&2; kubectl wait --for=condition=Ready --timeout=3m pod/example pod/raw-block"); strings.Count(got, "condition met") != 2 {
		t.Errorf("the examples say %q", got)
	}
	if said := run(cluster, "up"); !strings.Contains(said, "runs already") {
		t.Errorf("a second one says %q", said)
	}
	inside := namespacesIn(t, dir[1])
	devices := slices.DeleteFunc(loopDevices(t), func(line string) bool { return slices.Contains(others, line) })
	if len(devices) != 3 {
		t.Errorf("the pool's loop device, the volume's and kubelet's on that are %q", devices)
	}
	if before := tracesOf(t, work, dir[1], inside, devices); len(before) < 10 {
		t.Fatalf("a running cluster has few traces: the test looks in the wrong places: %q", before)
	}

	if said := run(cluster, "down"); said != "the cluster is gone\n" {
		t.Errorf("its end says %q", said)
	}
	if left := tracesOf(t, work, dir[1], inside, devices); len(left) > 0 {
		t.Errorf("it has left\n%s", strings.Join(left, "\n"))
	}
	if said := run(cluster, "down"); said != "no cluster is running\n" {
		t.Errorf("another end says %q", said)
	}
}

// namespaces are those that a cluster has of its own. Its mounts are looked for by themselves: who has their namespace open
// keeps them.
var namespaces = []string{"net", "pid", "ipc", "uts"}

// namespacesIn are those of all processes whose environment or command line has the cluster's folder in it, but the host's.
// They are open until the test ends, so that no other gets one's number.
func namespacesIn(t *testing.T, dir string) (all []string) {
	t.Helper()
	for _, pid := range processes(t) {
		if !mentions(pid, dir) {
			continue
		}
		for _, kind := range namespaces {
			own, _ := os.Readlink("/proc/self/ns/" + kind)
			file, err := os.Open(filepath.Join(pid, "ns", kind))
			if err != nil {
				continue // the process has ended
			}
			is, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", file.Fd()))
			if err != nil || is == own || slices.Contains(all, is) {
				_ = file.Close()
				continue
			}
			t.Cleanup(func() { _ = file.Close() })
			all = append(all, is)
		}
	}
	return all
}

// loopDevices are the host's that have a file, each with that: a line without its path, which tells nothing of one in a pool.
func loopDevices(t *testing.T) []string {
	t.Helper()
	said, err := exec.Command("losetup", "--noheadings", "--raw", "--output", "NAME,BACK-MAJ:MIN,BACK-INO").Output()
	if err != nil {
		t.Fatal(err)
	}
	return slices.Collect(strings.Lines(string(said)))
}

// ordinary writes the example without its RuntimeClass.
func ordinary(t *testing.T, example, to string) {
	t.Helper()
	text, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	const machine = "  runtimeClassName: kata\n"
	if !strings.Contains(string(text), machine) {
		t.Fatalf("%s is of an ordinary pod", example)
	}
	if err := os.WriteFile(to, []byte(strings.Replace(string(text), machine, "", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// tracesOf looks over the whole host for what is a cluster's: files, processes, mounts, its loop devices, cgroups.
func tracesOf(t *testing.T, work, dir string, inside, devices []string) (all []string) {
	t.Helper()
	for _, path := range []string{dir, filepath.Join(work, "out/cluster")} {
		if _, err := os.Lstat(path); err == nil {
			all = append(all, "folder "+path)
		}
	}
	for _, pid := range processes(t) {
		if mentions(pid, dir) || mentions(pid, work) {
			all = append(all, "process "+pid)
		}
		for _, kind := range namespaces {
			if is, err := os.Readlink(filepath.Join(pid, "ns", kind)); err == nil && slices.Contains(inside, is) {
				all = append(all, fmt.Sprint(pid, " in the namespace ", is))
			}
		}
		mounts, _ := os.ReadFile(filepath.Join(pid, "mountinfo"))
		for line := range strings.Lines(string(mounts)) {
			if strings.Contains(line, dir) || strings.Contains(line, work) {
				all = append(all, fmt.Sprint(pid, " has the mount ", line))
			}
		}
	}
	for _, line := range loopDevices(t) {
		if slices.Contains(devices, line) {
			all = append(all, "loop device "+line)
		}
	}
	for _, tree := range []string{"/sys/fs/cgroup/*", "/sys/fs/cgroup/*/*"} { // of either version
		cgroups, err := filepath.Glob(tree)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range cgroups {
			if filepath.Base(path) == filepath.Base(dir) {
				all = append(all, "cgroup "+path)
			}
		}
	}
	return all
}

func processes(t *testing.T) []string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	self := fmt.Sprintf("/proc/%d", unix.Getpid())
	return slices.DeleteFunc(all, func(pid string) bool { return pid == self })
}

// mentions says whether a process's command line or environment has the words in it.
func mentions(pid, words string) bool {
	for _, file := range []string{"cmdline", "environ"} {
		if text, err := os.ReadFile(filepath.Join(pid, file)); err == nil && strings.Contains(string(text), words) {
			return true
		}
	}
	return false
}
