package stage_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/katadirect/katadirect/pkg/csi/stage"
)

func open(t *testing.T, dir string) *stage.Store {
	t.Helper()
	s, err := stage.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var staged = stage.Volume{ID: "kd-1", StagingPath: "/var/lib/kubelet/x", FSType: "ext4", ReadOnly: true, Options: []string{"noatime"}}

func TestStagedStateSurvivesTheDriver(t *testing.T) {
	dir := t.TempDir()
	if err := open(t, dir).Put(t.Context(), staged); err != nil {
		t.Fatal(err)
	}
	got, err := open(t, dir).Get(t.Context(), staged.ID)
	if err != nil || !reflect.DeepEqual(got, staged) {
		t.Errorf("got %+v, %v; want %+v", got, err, staged)
	}
}

func TestForgettingIsRepeatable(t *testing.T) {
	s := open(t, t.TempDir())
	if err := s.Put(t.Context(), staged); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Delete(t.Context(), staged.ID); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Get(t.Context(), staged.ID); !errors.Is(err, stage.ErrNotStaged) {
		t.Errorf("got %v, want %v", err, stage.ErrNotStaged)
	}
}

// Where /run is a disk, files of the last boot are still there after a reboot, and a power cut may have torn them.
func TestWhatAnotherBootLeftIsNotStaged(t *testing.T) {
	bootID, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]func(content string) string{
		"another boot":   func(s string) string { return strings.Replace(s, strings.TrimSpace(string(bootID)), "0", 1) },
		"torn":           func(s string) string { return s[:len(s)/2] },
		"empty":          func(string) string { return "" },
		"another volume": func(s string) string { return strings.Replace(s, "kd-1", "kd-2", 1) },
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			if err := s.Put(t.Context(), staged); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "staged", staged.ID+".json")
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(spoil(string(content))), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Get(t.Context(), staged.ID); !errors.Is(err, stage.ErrNotStaged) {
				t.Errorf("got %v, want %v", err, stage.ErrNotStaged)
			}
			open(t, dir)
			if _, err := os.Stat(path); !os.IsNotExist(err) {
				t.Errorf("the file is still there: %v", err)
			}
		})
	}
}

func TestOpenRemovesHalfWrittenFilesAndNothingElse(t *testing.T) {
	dir := t.TempDir()
	if err := open(t, dir).Put(t.Context(), staged); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kd-2.tmp", "README"} {
		if err := os.WriteFile(filepath.Join(dir, "staged", name), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, dir)
	left, err := filepath.Glob(filepath.Join(dir, "staged", "*"))
	if err != nil || len(left) != 2 {
		t.Errorf("left are %v, %v; want README and the staged volume", left, err)
	}
	if _, err := s.Get(t.Context(), staged.ID); err != nil {
		t.Error(err)
	}
}
