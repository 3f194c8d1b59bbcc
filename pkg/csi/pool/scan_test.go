package pool

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestRestartFindsEveryVolumeAsItWas(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	var before []Volume
	for i := range 5 {
		v, err := p.Create(t.Context(), Spec{
			Name: fmt.Sprint(i), FSType: "xfs", Parameters: map[string]string{"a": "b"}, Size: SizeRange{RequiredBytes: gib},
		})
		if err != nil {
			t.Fatal(err)
		}
		before = append(before, v)
	}
	if _, err := p.Grow(t.Context(), before[0].ID, SizeRange{RequiredBytes: 2 * gib}); err != nil {
		t.Fatal(err)
	}
	before[0].SizeBytes = 2 * gib
	promised := p.space.booked()
	closePool(t, p)

	again := open(t, dir)
	for _, want := range before {
		got, err := again.Get(t.Context(), want.ID)
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("volume is %v after the restart, was %v", got, want)
		}
	}
	if got := again.space.booked(); got != promised {
		t.Errorf("%d bytes promised after the restart, %d before", got, promised)
	}
}

// state is a volume's folder as a crash or a person may leave it. Files: name to content.
type state map[string]string

func goodMeta(t *testing.T, name string) string {
	t.Helper()
	data, err := json.Marshal(meta{Version: metaVersion, Name: name, FSType: "ext4", Created: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return string(data) + string(metaEnd)
}

func TestScanRemovesOnlyWhatCannotHoldData(t *testing.T) {
	const name = "pvc"
	good := goodMeta(t, name)
	tests := map[string]struct {
		files   state
		removed bool
		usable  bool
	}{
		"empty folder":                      {state{}, true, false},
		"image without volume.json":         {state{imageName: ""}, true, false},
		"empty volume.json":                 {state{imageName: "", metaName: ""}, true, false},
		"volume.json cut short":             {state{imageName: "", metaName: good[:20]}, true, false},
		"volume.json of zeros":              {state{imageName: "", metaName: strings.Repeat("\x00", 100)}, true, false},
		"volume.json empty, no image":       {state{metaName: ""}, true, false},
		"whole":                             {state{imageName: "", metaName: good}, false, true},
		"whole with data":                   {state{imageName: "data", metaName: good}, false, true},
		"data without volume.json":          {state{imageName: "data"}, false, false},
		"data and an empty volume.json":     {state{imageName: "data", metaName: ""}, false, false},
		"volume.json without an image":      {state{metaName: good}, false, false},
		"volume.json of another volume":     {state{imageName: "", metaName: goodMeta(t, "other")}, false, false},
		"volume.json of a later version":    {state{imageName: "", metaName: strings.Replace(good, `"version":1`, `"version":2`, 1)}, false, false},
		"volume.json that is not JSON":      {state{imageName: "", metaName: "hello\n"}, false, false},
		"unfinished, with a file of others": {state{imageName: "", "notes.txt": "mine"}, false, false},
	}
	for title, test := range tests {
		t.Run(title, func(t *testing.T) {
			dir := t.TempDir()
			id := makeID(testNode, name)
			if err := os.Mkdir(filepath.Join(dir, id), 0o700); err != nil {
				t.Fatal(err)
			}
			for file, content := range test.files {
				write(t, filepath.Join(dir, id, file), content)
			}
			syncFile(t, filepath.Join(dir, id, imageName))
			p := open(t, dir)
			_, err := p.Get(t.Context(), id)
			switch {
			case test.removed && (exists(t, filepath.Join(dir, id)) || !errors.Is(err, ErrNotFound)):
				t.Errorf("the folder is still there: %v, %v", entries(t, dir), err)
			case test.usable && err != nil:
				t.Errorf("the volume is not usable: %v", err)
			case !test.removed && !test.usable && !errors.Is(err, ErrDamaged):
				t.Errorf("got %v, want %v", err, ErrDamaged)
			}
			if test.removed {
				return
			}
			for file, content := range test.files {
				if file == "notes.txt" || content == "data" {
					if got, err := os.ReadFile(filepath.Join(dir, id, file)); string(got) != content || err != nil {
						t.Errorf("%s holds %q, %v; want %q", file, got, err, content)
					}
				}
			}
		})
	}
}

func syncFile(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

func TestADamagedVolumeIsNotMadeAnewAndCanBeDeleted(t *testing.T) {
	dir := t.TempDir()
	id := makeID(testNode, "pvc")
	write(t, filepath.Join(dir, id, imageName), "data")
	syncFile(t, filepath.Join(dir, id, imageName))
	p := open(t, dir)
	if _, err := p.Create(t.Context(), ext4Spec("pvc", gib)); !errors.Is(err, ErrDamaged) {
		t.Errorf("create over a damaged volume: %v, want %v", err, ErrDamaged)
	}
	if _, err := p.Grow(t.Context(), id, SizeRange{RequiredBytes: gib}); !errors.Is(err, ErrDamaged) {
		t.Errorf("grow of a damaged volume: %v, want %v", err, ErrDamaged)
	}
	if err := p.Delete(t.Context(), id); err != nil {
		t.Error(err)
	}
	if left := entries(t, dir); len(left) != 0 || p.space.booked() != 0 {
		t.Errorf("left after the delete: %v and %d bytes promised", left, p.space.booked())
	}
}

func TestScanFinishesDeletionsAndLeavesStrangersAlone(t *testing.T) {
	dir := t.TempDir()
	deleted := deletedPrefix + makeID(testNode, "gone")
	write(t, filepath.Join(dir, deleted, imageName), "data")
	write(t, filepath.Join(dir, "backup.tar"), "mine")
	write(t, filepath.Join(dir, "pvc-1", "disk.img"), "mine")
	write(t, filepath.Join(dir, deletedPrefix+"pvc-1", "disk.img"), "mine")
	open(t, dir)
	want := []string{deletedPrefix + "pvc-1", "backup.tar", "pvc-1"}
	if got := entries(t, dir); !slices.Equal(got, want) {
		t.Errorf("pool holds %v, want %v", got, want)
	}
}

// A folder, an image or a volume.json that is a link leads out of the pool: it must be neither followed nor removed.
func TestLinksInThePoolLeadNowhere(t *testing.T) {
	outside := t.TempDir()
	id := makeID(testNode, "pvc")
	write(t, filepath.Join(outside, "victim", metaName), goodMeta(t, "pvc"))
	write(t, filepath.Join(outside, "victim", imageName), "precious")
	victim := filepath.Join(outside, "victim")
	tests := map[string]func(dir string) error{
		"folder": func(dir string) error { return os.Symlink(victim, filepath.Join(dir, id)) },
		"image": func(dir string) error {
			write(t, filepath.Join(dir, id, metaName), goodMeta(t, "pvc"))
			return os.Symlink(filepath.Join(victim, imageName), filepath.Join(dir, id, imageName))
		},
		"volume.json": func(dir string) error {
			write(t, filepath.Join(dir, id, imageName), "")
			return os.Symlink(filepath.Join(victim, metaName), filepath.Join(dir, id, metaName))
		},
		"deleted folder": func(dir string) error { return os.Symlink(victim, filepath.Join(dir, deletedPrefix+id)) },
	}
	for title, plant := range tests {
		t.Run(title, func(t *testing.T) {
			dir := t.TempDir()
			if err := plant(dir); err != nil {
				t.Fatal(err)
			}
			p := open(t, dir)
			if _, err := p.Get(t.Context(), id); err == nil {
				t.Error("the volume is served through a link")
			}
			if err := p.Delete(t.Context(), id); err != nil {
				t.Logf("delete: %v", err)
			}
			data, err := os.ReadFile(filepath.Join(victim, imageName))
			if string(data) != "precious" || err != nil {
				t.Errorf("the victim holds %q, %v", data, err)
			}
			if !exists(t, filepath.Join(victim, metaName)) {
				t.Error("the victim's volume.json is gone")
			}
		})
	}
}

func TestThePoolIsOpenOnceAndOursAlone(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	if _, err := Open(t.Context(), dir, Options{Node: testNode}); !errors.Is(err, ErrPoolInUse) {
		t.Errorf("second open: %v, want %v", err, ErrPoolInUse)
	}
	for _, mode := range []os.FileMode{0o770, 0o702, 0o777 | os.ModeSticky} {
		unsafe := t.TempDir()
		if err := os.Chmod(unsafe, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), unsafe, Options{Node: testNode}); !errors.Is(err, ErrUnsafePool) {
			t.Errorf("open with mode %v: %v, want %v", mode, err, ErrUnsafePool)
		}
	}
	foreign := t.TempDir()
	if err := os.Chown(foreign, 1234, 1234); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), foreign, Options{Node: testNode}); !errors.Is(err, ErrUnsafePool) {
		t.Errorf("open of another user's folder: %v, want %v", err, ErrUnsafePool)
	}
}

func TestARestartWithAThousandVolumesIsQuick(t *testing.T) {
	const few, many = 100, 1000
	dirs := map[int]string{few: t.TempDir(), many: t.TempDir()}
	for n, dir := range dirs {
		for i := range n {
			name := fmt.Sprint("v", i)
			folder := filepath.Join(dir, makeID(testNode, name))
			write(t, filepath.Join(folder, metaName), goodMeta(t, name))
			write(t, filepath.Join(folder, imageName), "")
		}
	}
	took := map[int]time.Duration{few: time.Hour, many: time.Hour} // at best: the disk may be busy with something else
	for try := 0; try < 10 && (try < 2 || took[many] > 30*took[few]); try++ {
		for n, dir := range dirs {
			start := time.Now()
			p := open(t, dir)
			took[n] = min(took[n], time.Since(start))
			if got := len(p.List(t.Context())); got != n {
				t.Errorf("%d volumes, want %d", got, n)
			}
			closePool(t, p)
		}
	}
	t.Logf("opened in %v", took)
	if took[many] > 30*took[few] { // far above the ten times that it takes, far below what a quadratic scan would
		t.Errorf("opening took %v", took)
	}
}

func FuzzParseMeta(f *testing.F) {
	id := makeID(testNode, "pvc")
	f.Add([]byte(`{"version":1,"name":"pvc","fstype":"ext4","created":"2026-01-02T03:04:05Z"}` + "\n"))
	f.Add([]byte("{}"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseMeta(id, data)
		if err == nil && (!idNames(id, m.Name) || m.Version != metaVersion || fileSystems[m.FSType].minBytes == 0) {
			t.Errorf("%q was read as %+v", data, m)
		}
	})
}
