package pool

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDeleteTakesTheVolumeAndNothingElse(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	gone, kept := create(t, p, "gone", gib), create(t, p, "kept", gib)
	for range 2 { // the second time there is nothing to do
		if err := p.Delete(t.Context(), gone.ID); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Get(t.Context(), gone.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("get of the deleted volume: %v, want %v", err, ErrNotFound)
	}
	if got := entries(t, dir); len(got) != 1 || got[0] != kept.ID {
		t.Errorf("pool holds %v, want %s", got, kept.ID)
	}
	if got, want := p.space.booked(), costBytes(gib); got != want {
		t.Errorf("%d bytes are promised, want %d", got, want)
	}
}

func TestADeletedNameCanBeMadeAgainAndIsBlank(t *testing.T) {
	p := open(t, t.TempDir())
	first := create(t, p, "pvc", gib)
	writeImage(t, first, "secret of the old tenant")
	if err := p.Delete(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}
	second := create(t, p, "pvc", gib)
	if got := readImage(t, second, 24); strings.Trim(got, "\x00") != "" {
		t.Errorf("the new volume holds %q", got)
	}
}

func TestBadIDsAreRefusedAndTouchNothing(t *testing.T) {
	parent := t.TempDir()
	victim := filepath.Join(parent, "victim", imageName)
	write(t, victim, "precious")
	p := open(t, filepath.Join(parent, "pool"))
	bad := []string{
		"", ".", "..", "../victim", "/", victim, "a/b", "a/../b", "..a", "a..", ".hidden", "a\x00b", "a b", "a\nb", "ä",
		strings.Repeat("a", 129), lockName, deletedPrefix + makeID(testNode, "x"), `a\b`, "%2e%2e",
	}
	for _, id := range bad {
		if err := ValidateID(id); !errors.Is(err, ErrInvalidID) {
			t.Errorf("%q: %v, want %v", id, err, ErrInvalidID)
		}
		_, getErr := p.Get(t.Context(), id)
		_, growErr := p.Grow(t.Context(), id, SizeRange{RequiredBytes: gib})
		_, checkErr := p.CheckGrow(t.Context(), id, SizeRange{RequiredBytes: gib})
		_, usageErr := p.Usage(t.Context(), id)
		for i, err := range []error{getErr, growErr, checkErr, usageErr, p.Delete(t.Context(), id)} {
			if !errors.Is(err, ErrInvalidID) {
				t.Errorf("%q, method %d: %v, want %v", id, i, err, ErrInvalidID)
			}
		}
	}
	if data, err := os.ReadFile(victim); string(data) != "precious" || err != nil {
		t.Errorf("the victim holds %q, %v", data, err)
	}
}

func FuzzValidateID(f *testing.F) {
	f.Add("../victim")
	f.Add(makeID(testNode, "pvc"))
	f.Add("a/../b")
	f.Fuzz(func(t *testing.T, id string) {
		if ValidateID(id) != nil {
			if IsPoolID(id) {
				t.Errorf("%q is an id of the pool and is refused", id)
			}
			return
		}
		// What passes must be one name in a folder, of that folder.
		if filepath.Base(id) != id || !filepath.IsLocal(id) || id == "." || len(id) > maxIDBytes || strings.ContainsAny(id, "/\x00\\") {
			t.Errorf("%q passes", id)
		}
	})
}

// lockEnv tells the test binary, started again, which image to lock. It is the process that has the image open.
const lockEnv = "KATADIRECT_TEST_LOCK_IMAGE"

func TestMain(m *testing.M) {
	if path := os.Getenv(lockEnv); path != "" {
		if err := lockLikeQEMU(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println("locked")
		os.Stdin.Read(make([]byte, 1)) // until the test closes it
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// lockLikeQEMU takes the shared lock on byte 100 that QEMU takes for an image it reads (block/file-posix.c).
func lockLikeQEMU(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK, Start: 100, Len: 1})
}

// startMachine starts a process that has the image locked, and returns what ends it.
func startMachine(t *testing.T, image string) (end func()) {
	t.Helper()
	machine := exec.Command(os.Args[0])
	machine.Env = append(os.Environ(), lockEnv+"="+image)
	stdin, err := machine.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := machine.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := machine.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := stdout.Read(make([]byte, 7)); err != nil {
		t.Fatal(err)
	}
	return func() {
		stdin.Close()
		if err := machine.Wait(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDeleteRefusesWhileAMachineHasTheImageOpen(t *testing.T) {
	p := open(t, t.TempDir())
	v := create(t, p, "pvc", gib)
	writeImage(t, v, "data")
	end := startMachine(t, v.ImagePath)
	if err := p.Delete(t.Context(), v.ID); !errors.Is(err, ErrImageInUse) {
		t.Errorf("delete of a locked image: %v, want %v", err, ErrImageInUse)
	}
	if got := readImage(t, v, 4); got != "data" {
		t.Errorf("the image holds %q", got)
	}
	end()
	if err := p.Delete(t.Context(), v.ID); err != nil {
		t.Errorf("delete after the lock is gone: %v", err)
	}
}

func TestDeleteKeepsWhatItDoesNotKnow(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	v := create(t, p, "pvc", gib)
	write(t, filepath.Join(dir, v.ID, "notes.txt"), "mine")
	left := filepath.Join(dir, deletedPrefix+v.ID, "notes.txt")
	for range 2 {
		if err := p.Delete(t.Context(), v.ID); err == nil {
			t.Error("delete says that everything is gone")
		}
		if !exists(t, left) {
			t.Error("a file that the pool did not make is gone")
		}
	}
	if got := p.space.booked(); got != 0 {
		t.Errorf("%d bytes are promised to a volume that is gone", got)
	}
	create(t, p, "pvc", gib) // the name is free, and what is left of the old one is in nobody's way
	if err := os.Remove(left); err != nil {
		t.Fatal(err)
	}
	if err := p.Delete(t.Context(), v.ID); err != nil {
		t.Error(err)
	}
	if got := entries(t, dir); len(got) != 0 {
		t.Errorf("the pool holds %v", got)
	}
}

func TestDeleteSparesACopyByHardLink(t *testing.T) {
	parent := t.TempDir()
	p := open(t, filepath.Join(parent, "pool"))
	v := create(t, p, "pvc", gib)
	writeImage(t, v, "data")
	copied := filepath.Join(parent, "copy.img")
	if err := os.Link(v.ImagePath, copied); err != nil {
		t.Fatal(err)
	}
	if err := p.Delete(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	if got := readImage(t, Volume{ImagePath: copied}, 4); got != "data" {
		t.Errorf("the copy holds %q", got)
	}
}

// An image that cannot be asked for locks may be a machine's disk.
func TestDeleteRefusesWhatItCannotAsk(t *testing.T) {
	p := open(t, t.TempDir())
	v := create(t, p, "pvc", gib)
	writeImage(t, v, "data")
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	next, err := os.Open(os.DevNull) // the lowest free number
	if err != nil {
		t.Fatal(err)
	}
	few := unix.Rlimit{Cur: uint64(next.Fd()) + 1, Max: old.Max} // room for the folder, none for the image
	if err := errors.Join(next.Close(), unix.Setrlimit(unix.RLIMIT_NOFILE, &few)); err != nil {
		t.Fatal(err)
	}
	deleteErr := p.Delete(t.Context(), v.ID)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(deleteErr, unix.EMFILE) {
		t.Errorf("delete: %v, want %v", deleteErr, unix.EMFILE)
	}
	if got := readImage(t, v, 4); got != "data" {
		t.Errorf("the image holds %q", got)
	}
}
