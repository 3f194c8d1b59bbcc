package lab_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/katadirect/katadirect/internal/lab"
)

func TestMain(m *testing.M) {
	lab.Init()
	os.Exit(m.Run())
}

func open(t *testing.T, flavour lab.Flavour) *lab.Lab {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	l, err := lab.Open(ctx, lab.Options{Containerd: flavour})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// closeClean closes the lab and fails the test when something was left.
func closeClean(t *testing.T, l *lab.Lab) {
	t.Helper()
	left, err := l.Close(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Error(err)
	}
	if len(left) > 0 {
		t.Errorf("left over:\n%s", strings.Join(left, "\n"))
	}
}

func TestAPodRunsUnderRuncAndLeavesNothing(t *testing.T) {
	for _, flavour := range lab.Flavours {
		t.Run(string(flavour), func(t *testing.T) {
			l := open(t, flavour)
			defer closeClean(t, l)
			pod, err := l.RunPod(t.Context(), lab.PodSpec{Name: "shell", Handler: "runc"})
			if err != nil {
				t.Fatal(err)
			}
			c, err := pod.Run(t.Context(), lab.ContainerSpec{
				Name:    "shell",
				Command: []string{"sh", "-c", "echo started; echo oops >&2; exec sleep infinity"},
				Env:     map[string]string{"COLOUR": "green"},
			})
			if err != nil {
				t.Fatal(err)
			}
			if out, err := c.Exec(t.Context(), "sh", "-c", "echo $COLOUR"); err != nil || out != "green\n" {
				t.Errorf("exec printed %q, %v", out, err)
			}
			var exit *lab.ExitError
			if _, err := c.Exec(t.Context(), "sh", "-c", "echo why >&2; exit 7"); !errors.As(err, &exit) ||
				exit.Code != 7 || exit.Stderr != "why\n" {
				t.Errorf("a failing command gave %v", err)
			}
			for stream, want := range map[string]string{"stdout": "started\n", "stderr": "oops\n"} {
				got, err := c.Logs(stream)
				// containerd copies what is printed when it comes to it.
				for end := time.Now().Add(20 * time.Second); err == nil && got != want && time.Now().Before(end); got, err = c.Logs(stream) {
					time.Sleep(20 * time.Millisecond)
				}
				if err != nil || got != want {
					t.Errorf("%s has %q, want %q, %v", stream, got, want, err)
				}
			}
			if err := pod.Remove(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTheSearchFindsWhatARunLeaves(t *testing.T) {
	l := open(t, lab.Debian)
	pool := filepath.Join(l.Dir, "pool")
	image := filepath.Join(pool, "volume.raw")
	target := filepath.Join(l.Dir, "target")
	l.Watch(pool)
	_, err := l.Run(t.Context(), lab.Command{Name: "sh", Path: "/bin/sh", Args: []string{"-ec", `
		mkdir -p "$0" "$2"
		truncate -s 8M "$1"
		mkfs.ext4 -q "$1"
		mount -o loop "$1" "$2"
		touch /run/claim
		sleep 300 &
	`, pool, image, target}})
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := l.MountsOf(image, target)
	if err != nil || len(mounts) != 1 {
		t.Errorf("mounts of the volume: %q, %v, want the one", mounts, err)
	}
	pod, err := l.RunPod(t.Context(), lab.PodSpec{Name: "forgotten"})
	if err != nil {
		t.Fatal(err)
	}
	left, err := l.Close(t.Context())
	if err != nil {
		t.Error(err)
	}
	for _, want := range []string{
		"sleep 300", "mount: /dev/loop", "loop device /dev/loop", "file: /run/claim", "file: " + image,
		"containerd-shim-runc-v2", "containerd task: ", pod.ID,
	} {
		if !slices.ContainsFunc(left, func(line string) bool { return strings.Contains(line, want) }) {
			t.Errorf("the search has not found %q in\n%s", want, strings.Join(left, "\n"))
		}
	}
}
