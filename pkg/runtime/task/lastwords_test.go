package task

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// asMessage is kubelet's mount of the file.
func asMessage(file, mode string) []specs.Mount {
	return []specs.Mount{{Type: "bind", Source: file, Destination: "/dev/termination-log", Options: []string{"rbind", mode}}}
}

func messageOf(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "message")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestTheHostHasAContainersLastWordsBeforeItsExitIsReported(t *testing.T) {
	t.Parallel()
	died := errors.New("the virtual machine is gone:\nQEMU was killed")
	for _, tc := range []struct {
		name   string
		words  string // the container's, in the guest
		before string // in the file
		mode   string
		hooks  hooks
		end    func(*rig)
		want   string
	}{
		{name: "what it wrote to a copy in the guest", words: "why\n", want: "why\n"},
		{name: "nothing, where it wrote nothing"},
		{name: "what it wrote to the host's file", words: "copy", before: "own", want: "own"},
		{name: "no more than kubelet reads", words: strings.Repeat("ä", maxWords), want: strings.Repeat("ä", maxWords/2)},
		{name: "nothing into a file that it may only read", words: "why", mode: "ro"},
		{name: "nothing of a guest that cannot tell", words: "why",
			hooks: hooks{words: func(context.Context, string) error { return errInjected }}},
		{name: "why its machine is gone, in a line", words: "why", hooks: deaf, end: func(r *rig) { r.sandbox.die(died) },
			want: "the virtual machine is gone:; QEMU was killed"},
		{name: "its own words, though its machine is gone", before: "own", hooks: deaf, end: func(r *rig) { r.sandbox.die(died) }, want: "own"},
		{name: "nothing, if its machine was told to end", words: "why", hooks: deaf, end: func(r *rig) { r.sandbox.die(nil) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, tc.hooks)
			r.sandbox.words = tc.words
			file := messageOf(t, tc.before)
			if tc.mode == "" {
				tc.mode = "rw"
			}
			r.run(spec{id: "pod", args: forever(), annotations: asPod()})
			r.run(spec{id: "c1", args: forever(), annotations: inPod("pod"), mounts: asMessage(file, tc.mode)})
			if tc.end == nil {
				tc.end = func(r *rig) {
					if err := r.kill("c1", "", syscall.SIGKILL); err != nil {
						t.Fatal(err)
					}
				}
			}
			tc.end(r)
			wantEqual(t, "exit", r.wait("c1", ""), 137)
			if got, err := os.ReadFile(file); err != nil || string(got) != tc.want {
				t.Errorf("the file has %q, %v; want %q", got, err, tc.want)
			}
		})
	}
}

func TestOnlyTheFirstProcessOfAContainerWithAFileHasLastWords(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	r.run(spec{id: "pod", args: forever(), annotations: asPod()})
	r.run(spec{id: "c1", args: forever(), annotations: inPod("pod"), mounts: asMessage(messageOf(t, ""), "rw")})
	r.exec("c1", "e1", sh("exit 0"), StdioConfig{})
	r.start("c1", "e1")
	wantEqual(t, "exit of the exec", r.wait("c1", "e1"), 0)
	if calls := r.sandbox.called(); slices.Contains(calls, "last words c1") {
		t.Errorf("calls %q", calls)
	}
	if err := r.kill("pod", "", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "exit of the pod", r.wait("pod", ""), 137)
	if calls := r.sandbox.called(); slices.Contains(calls, "last words pod") {
		t.Errorf("calls %q", calls)
	}
}

func TestLastWordsAreLeftInAnEmptyFileOnly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	target, link, fifo := messageOf(t, ""), filepath.Join(dir, "link"), fifo(t)
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, fifo, dir, filepath.Join(dir, "missing"), "/dev/null"} {
		if err := leave(path, "why"); err == nil {
			t.Errorf("%s was written to", path)
		}
	}
	if got, err := os.ReadFile(target); err != nil || len(got) > 0 {
		t.Errorf("behind the link is %q, %v", got, err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "missing")); err == nil {
		t.Error("a file was made")
	}
}
