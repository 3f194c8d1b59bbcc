package stage

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// Whatever stands in a file of the folder, it is the volume's state of this boot, or the volume is not staged; and the
// next start clears away what says nothing.
func FuzzGet(f *testing.F) {
	dir := f.TempDir()
	s, err := Open(dir)
	if err != nil {
		f.Fatal(err)
	}
	const id = "kd-1"
	if err := s.Put(f.Context(), Volume{ID: id, StagingPath: "/staging", FSType: "ext4"}); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(s.path(id))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"volume-id":"kd-2","boot-id":"` + s.bootID + `"}`))
	f.Add([]byte(`{"volume-id":"kd-1","boot-id":"another"}`))
	f.Add(good[:len(good)/2])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(s.path(id), data, fileMode); err != nil {
			t.Fatal(err)
		}
		v, err := s.Get(t.Context(), id)
		if err == nil && v.ID != id || err != nil && !errors.Is(err, ErrNotStaged) {
			t.Errorf("%q was read as %+v, %v", data, v, err)
		}
		again, openErr := Open(dir)
		if openErr != nil {
			t.Fatalf("%q keeps the driver from starting: %v", data, openErr)
		}
		_, statErr := os.Stat(filepath.Join(again.dir, id+suffix))
		if kept := statErr == nil; kept != (err == nil) {
			t.Errorf("%q is kept at start: %t, though reading it said %v", data, kept, err)
		}
		if err != nil {
			return
		}
		if err := s.Put(t.Context(), v); err != nil {
			t.Fatal(err)
		}
		if back, err := s.Get(t.Context(), id); err != nil || back.StagingPath != v.StagingPath || back.FSType != v.FSType || back.ReadOnly != v.ReadOnly {
			t.Errorf("%+v comes back as %+v, %v", v, back, err)
		}
	})
}
