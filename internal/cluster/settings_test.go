package cluster

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// sysctls is a folder with settings, and what reads and writes one of them.
func sysctls(t *testing.T) (root, file string, get func() string, set func(string)) {
	t.Helper()
	root, file = t.TempDir(), filepath.Join(t.TempDir(), "run", "settings.json")
	panics := filepath.Join(root, "kernel", "panic")
	if err := os.Mkdir(filepath.Dir(panics), 0o755); err != nil {
		t.Fatal(err)
	}
	set = func(value string) {
		if err := os.WriteFile(panics, []byte(value+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	get = func() string {
		raw, err := os.ReadFile(panics)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(raw))
	}
	set("0")
	return root, file, get, set
}

func keep(t *testing.T, root, file string) *hostSettings {
	t.Helper()
	s, err := keepSettings(root, file)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSettingsComeBackWithTheLastCluster(t *testing.T) {
	root, file, get, set := sysctls(t)
	first := keep(t, root, file)
	set("10")
	second := keep(t, root, file) // finds what the first one's kubelet has set
	if err := first.restore(); err != nil || get() != "10" {
		t.Fatalf("with a cluster still running: %s, %v", get(), err)
	}
	if err := second.restore(); err != nil || get() != "0" {
		t.Fatalf("after the last one: %s, %v", get(), err)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is left: %v", err)
	}
}

// One cluster comes when the other goes: it must not keep its settings in a file that is gone.
func TestSettingsAreKeptWhereTheNextClusterLooks(t *testing.T) {
	root, file, get, set := sysctls(t)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				s, err := keepSettings(root, file)
				if err != nil {
					t.Error(err)
					return
				}
				if !isAt(s.file, file) {
					t.Error("the settings are in a file that nobody finds")
				}
				if err := s.restore(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	kept := keep(t, root, file)
	set("10")
	if err := kept.restore(); err != nil || get() != "0" {
		t.Errorf("%s, %v", get(), err)
	}
}

func TestSettingsOfAKilledClusterComeBackWithTheNext(t *testing.T) {
	root, file, get, set := sysctls(t)
	killed := keep(t, root, file)
	set("10")
	_ = killed.file.Close()
	next := keep(t, root, file)
	if get() != "0" {
		t.Errorf("at the next one's start: %s", get())
	}
	set("10")
	if err := next.restore(); err != nil || get() != "0" {
		t.Errorf("after the next one: %s, %v", get(), err)
	}
}

func TestFoldersThatWereNotThereGoWithTheLastCluster(t *testing.T) {
	root, file, _, _ := sysctls(t)
	there, missing := t.TempDir(), filepath.Join(t.TempDir(), "missing")
	var open []*hostSettings
	for range 2 {
		s, err := keepSettings(root, file, there, missing)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, s)
		if err := os.MkdirAll(missing, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range []bool{true, false} {
		if err := open[i].restore(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(missing); (err == nil) != want {
			t.Errorf("after the end of cluster %d: %v", i, err)
		}
	}
	if _, err := os.Stat(there); err != nil {
		t.Errorf("what was there is gone: %v", err)
	}
}
