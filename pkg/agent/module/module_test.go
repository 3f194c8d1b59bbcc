package module

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
)

// newLoader returns one whose insertions are recorded instead of made: the
// host's kernel takes no modules.
func newLoader(t *testing.T, list string) (*Loader, *[]string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "modules.json")
	if err := os.WriteFile(path, []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	var inserted []string
	l.insert = func(path, parameters string) error {
		inserted = append(inserted, filepath.Base(path)+" "+parameters)
		return nil
	}
	return l, &inserted
}

const list = `{"boot":["/m/virtio.ko","/m/virtio_blk.ko"],"share":["/m/virtio.ko","/m/fuse.ko","/m/virtiofs.ko","/m/overlay.ko"],"xfs":[]}`

func TestModulesAreLoadedInOrderAndOnce(t *testing.T) {
	l, inserted := newLoader(t, list)
	if err := errors.Join(l.Load(Boot), l.LoadModule(VirtioFS, "a=1", "b=2"), l.Load(Boot), l.LoadModule(VirtioFS),
		l.Load("xfs"), l.Load("ext4")); err != nil {
		t.Fatal(err)
	}
	want := []string{"virtio.ko ", "virtio_blk.ko ", "fuse.ko ", "virtiofs.ko a=1 b=2"}
	if !slices.Equal(*inserted, want) {
		t.Errorf("loaded %q, want %q", *inserted, want)
	}
}

func TestAModuleIsFoundUnderBothSpellings(t *testing.T) {
	l, inserted := newLoader(t, `{"x":["/m/snd-seq_midi.ko"]}`)
	if err := l.LoadModule("snd_seq-midi"); err != nil || len(*inserted) != 1 {
		t.Errorf("%v, loaded %q", err, *inserted)
	}
}

func TestModulesThatAreNotInTheImage(t *testing.T) {
	l, _ := newLoader(t, list)
	if err := l.LoadModule("no_such_module"); !errors.Is(err, ErrUnknown) {
		t.Errorf("%v, want ErrUnknown", err)
	}
	if err := l.LoadModule("tmpfs"); err != nil {
		t.Errorf("a file system that the kernel has built in: %v", err)
	}
}

func TestAFailedLoadIsTriedAgain(t *testing.T) {
	l, _ := newLoader(t, list)
	failures := 1
	l.insert = func(string, string) error {
		if failures--; failures >= 0 {
			return errors.New("no memory")
		}
		return nil
	}
	if err := l.Load(Boot); err == nil {
		t.Error("the failure was not reported")
	}
	if err := l.Load(Boot); err != nil {
		t.Errorf("the second try: %v", err)
	}
}

func TestConcurrentLoadsWaitForOneAnother(t *testing.T) {
	l, inserted := newLoader(t, list)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := errors.Join(l.Load(Boot), l.LoadModule(Overlay)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if len(*inserted) != 5 {
		t.Errorf("loaded %q", *inserted)
	}
}

func TestAnImageWithoutAListAndOneWithABrokenOne(t *testing.T) {
	l, err := Open(filepath.Join(t.TempDir(), "none"))
	if err != nil || l.Load(Boot) != nil {
		t.Errorf("no list: %v", err)
	}
	broken := filepath.Join(t.TempDir(), "modules.json")
	if err := os.WriteFile(broken, []byte(`{"boot":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(broken); err == nil {
		t.Error("a broken list was taken")
	}
}
