package directvolume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func (h host) claims(t *testing.T, volumePath string) []string {
	t.Helper()
	entries, err := os.ReadDir(h.folder(volumePath))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		if entry.Name() != "mountInfo.json" {
			names = append(names, entry.Name())
		}
	}
	return names
}

func TestClaimIsAnEmptyFileNamedAsTheSandbox(t *testing.T) {
	h := newHost(t)
	volumePath := h.added(t, "/v", h.device(t, "disk"))
	h.alive(t, "s1")
	for range 2 { // a pod's second container claims again
		if got, err := h.store().Claim(t.Context(), volumePath, "s1"); err != nil || got.FSType != "ext4" {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	if got := h.claims(t, volumePath); !slices.Equal(got, []string{"s1"}) {
		t.Fatalf("claims: %q", got)
	}
	info, err := os.Stat(filepath.Join(h.folder(volumePath), "s1"))
	if err != nil || info.Size() != 0 || info.Mode() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	if id, err := h.store().SandboxFor(t.Context(), volumePath); err != nil || id != "s1" {
		t.Fatalf("%q, %v", id, err)
	}
}

func TestSecondLivingSandboxIsRefused(t *testing.T) {
	h := newHost(t)
	volumePath := h.added(t, "/v", h.device(t, "disk"))
	h.alive(t, "s1")
	lease := h.alive(t, "s2")
	if _, err := h.store().Claim(t.Context(), volumePath, "s2"); err != nil {
		t.Fatal(err)
	}
	_, err := h.store().Claim(t.Context(), volumePath, "s1")
	var claimed *ClaimedError
	if !errors.Is(err, ErrClaimed) || !errors.As(err, &claimed) || claimed.Sandbox != "s2" {
		t.Fatalf("got %v", err)
	}
	if got := h.claims(t, volumePath); !slices.Equal(got, []string{"s2"}) {
		t.Fatalf("claims: %q", got)
	}
	// The same sandbox is dead now, and its claim with it.
	lease.Close()
	if _, err := h.store().Claim(t.Context(), volumePath, "s1"); err != nil {
		t.Fatal(err)
	}
	if got := h.claims(t, volumePath); !slices.Equal(got, []string{"s1"}) {
		t.Fatalf("claims: %q", got)
	}
}

func TestOneDeviceUnderTwoRecordsIsClaimedOnce(t *testing.T) {
	h := newHost(t)
	disk := h.device(t, "disk")
	link := filepath.Join(h.dir, "by-id")
	must(t, os.Symlink(disk, link))
	h.added(t, "/a", disk)
	h.added(t, "/b", link)
	h.added(t, "/c", h.device(t, "other"))
	h.alive(t, "s1")
	h.alive(t, "s2")
	if _, err := h.store().Claim(t.Context(), "/a", "s1"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.store().Claim(t.Context(), "/b", "s2"); !errors.Is(err, ErrClaimed) {
		t.Fatalf("the same disk in two machines: %v", err)
	}
	if got := h.claims(t, "/b"); len(got) != 0 {
		t.Fatalf("the refused claim stayed: %q", got)
	}
	for path, sandbox := range map[string]string{"/b": "s1", "/c": "s2"} {
		if _, err := h.store().Claim(t.Context(), path, sandbox); err != nil {
			t.Errorf("%s for %s: %v", path, sandbox, err)
		}
	}
}

func TestUnusableDeviceIsNotClaimed(t *testing.T) {
	h := newHost(t)
	folder := filepath.Join(h.dir, "folder")
	must(t, os.Mkdir(folder, 0o700))
	fifo := filepath.Join(h.dir, "fifo")
	must(t, unix.Mkfifo(fifo, 0o600))
	dangling := filepath.Join(h.dir, "dangling")
	must(t, os.Symlink("nowhere", dangling))
	h.alive(t, "s1")
	for name, device := range map[string]string{
		"gone": filepath.Join(h.dir, "gone"), "folder": folder, "fifo": fifo, "character device": "/dev/null", "dangling": dangling,
	} {
		h.added(t, "/"+name, device)
		if _, err := h.store().Claim(t.Context(), "/"+name, "s1"); !errors.Is(err, ErrDevice) {
			t.Errorf("%s: %v", name, err)
		}
		if got := h.claims(t, "/"+name); len(got) != 0 {
			t.Errorf("%s: claims %q", name, got)
		}
		// It is the claimer's business alone: the record itself is good.
		if _, err := h.store().Get(t.Context(), "/"+name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSandboxIDsThatCannotBeFileNamesAreRefused(t *testing.T) {
	h := newHost(t)
	h.added(t, "/v", h.device(t, "disk"))
	for _, id := range []string{"", ".", "..", "../s1", "a/b", "mountInfo.json", "-id", "a b", "ä", "a\x00", string(make([]byte, 129))} {
		if _, err := h.store().Claim(t.Context(), "/v", id); !errors.Is(err, ErrInvalidSandbox) {
			t.Errorf("Claim(%q): %v", id, err)
		}
		if err := h.store().Release(t.Context(), "/v", id); !errors.Is(err, ErrInvalidSandbox) {
			t.Errorf("Release(%q): %v", id, err)
		}
		if err := h.store().ReleaseAll(t.Context(), id); !errors.Is(err, ErrInvalidSandbox) {
			t.Errorf("ReleaseAll(%q): %v", id, err)
		}
		if _, err := h.sandboxes().AcquireLease(id); !errors.Is(err, ErrInvalidSandbox) {
			t.Errorf("AcquireLease(%q): %v", id, err)
		}
		if h.sandboxes().Alive(id) {
			t.Errorf("%q is alive", id)
		}
		if _, err := NewClient(id, WithClientSandboxes(h.sandboxes())).Stats(t.Context(), "/dev/sdf"); !errors.Is(err, ErrInvalidSandbox) {
			t.Errorf("Stats of %q: %v", id, err)
		}
	}
	if _, err := h.store().Get(t.Context(), "/v"); err != nil {
		t.Error(err)
	}
}

func TestReleaseGivesTheVolumeToTheNext(t *testing.T) {
	h := newHost(t)
	h.added(t, "/v", h.device(t, "disk"))
	h.alive(t, "s1")
	h.alive(t, "s2")
	if _, err := h.store().Claim(t.Context(), "/v", "s1"); err != nil {
		t.Fatal(err)
	}
	must(t, h.store().Release(t.Context(), "/v", "s2")) // not its to give
	if _, err := h.store().Claim(t.Context(), "/v", "s2"); !errors.Is(err, ErrClaimed) {
		t.Fatal(err)
	}
	for range 2 {
		must(t, h.store().Release(t.Context(), "/v", "s1"))
	}
	if _, err := h.store().SandboxFor(t.Context(), "/v"); !errors.Is(err, ErrNoSandbox) {
		t.Fatal(err)
	}
	if _, err := h.store().Claim(t.Context(), "/v", "s2"); err != nil {
		t.Fatal(err)
	}
}

func TestReleaseAllTakesBackTheClaimsOfOneSandbox(t *testing.T) {
	h := newHost(t)
	h.alive(t, "s1")
	h.alive(t, "s2")
	for path, sandbox := range map[string]string{"/a": "s1", "/b": "s1", "/c": "s2"} {
		h.added(t, path, h.device(t, "disk-"+filepath.Base(path)))
		if _, err := h.store().Claim(t.Context(), path, sandbox); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		must(t, h.store().ReleaseAll(t.Context(), "s1"))
	}
	if a, b, c := h.claims(t, "/a"), h.claims(t, "/b"), h.claims(t, "/c"); len(a)+len(b) != 0 || !slices.Equal(c, []string{"s2"}) {
		t.Fatalf("claims: %q %q %q", a, b, c)
	}
}

func TestRecordOfALivingSandboxStays(t *testing.T) {
	h := newHost(t)
	disk := h.device(t, "disk")
	h.added(t, "/v", disk)
	lease := h.alive(t, "s1")
	if _, err := h.store().Claim(t.Context(), "/v", "s1"); err != nil {
		t.Fatal(err)
	}
	if err := h.store().Remove(t.Context(), "/v"); !errors.Is(err, ErrClaimed) {
		t.Fatalf("Remove: %v", err)
	}
	if err := h.store().Add(t.Context(), "/v", h.record("/dev/sdg")); !errors.Is(err, ErrClaimed) {
		t.Fatalf("Add of another device: %v", err)
	}
	if got, err := h.store().Get(t.Context(), "/v"); err != nil || got.Device != disk {
		t.Fatalf("%+v, %v", got, err)
	}
	// A volume that grows is recorded again while it is in use, and stays claimed.
	grown := h.record(disk)
	grown.Metadata = map[string]string{MetadataSizeBytes: "2147483648"}
	must(t, h.store().Add(t.Context(), "/v", grown))
	if got, err := h.store().Get(t.Context(), "/v"); err != nil || got.Metadata[MetadataSizeBytes] != "2147483648" {
		t.Fatalf("%+v, %v", got, err)
	}
	if got := h.claims(t, "/v"); !slices.Equal(got, []string{"s1"}) {
		t.Fatalf("claims: %q", got)
	}
	lease.Close()
	must(t, h.store().Remove(t.Context(), "/v"))
	if names := h.rootNames(t); len(names) != 0 {
		t.Fatalf("left over: %q", names)
	}
}

func TestLockedRecordIsWaitedForUntilTheContextEnds(t *testing.T) {
	h := newHost(t)
	h.added(t, "/v", h.device(t, "disk"))
	h.added(t, "/w", h.device(t, "other"))
	h.alive(t, "s1")
	folder, err := os.Open(h.folder("/v"))
	must(t, err)
	defer folder.Close()
	must(t, unix.Flock(int(folder.Fd()), unix.LOCK_EX))

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	for name, call := range map[string]func() error{
		"Claim":   func() error { _, err := h.store().Claim(ctx, "/v", "s1"); return err },
		"Remove":  func() error { return h.store().Remove(ctx, "/v") },
		"Add":     func() error { return h.store().Add(ctx, "/v", h.record("/dev/sdg")) },
		"Release": func() error { return h.store().Release(ctx, "/v", "s1") },
	} {
		if err := call(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if names := h.rootNames(t); len(names) != 2 {
		t.Errorf("left over: %q", names)
	}
	// Other volumes do not wait, and neither do readers.
	if _, err := h.store().Claim(t.Context(), "/w", "s1"); err != nil {
		t.Error(err)
	}
	if _, err := h.store().Get(t.Context(), "/v"); err != nil {
		t.Error(err)
	}
	// Nor does giving back what is not held under the locked one.
	must(t, h.store().ReleaseAll(t.Context(), "s1"))
	must(t, unix.Flock(int(folder.Fd()), unix.LOCK_UN))
	if _, err := h.store().Claim(t.Context(), "/v", "s1"); err != nil {
		t.Error(err)
	}
}

func TestLockOnAFolderThatWasReplacedIsTakenAgain(t *testing.T) {
	h := newHost(t)
	h.added(t, "/v", h.device(t, "old"))
	h.alive(t, "s1")
	old, err := os.Open(h.folder("/v"))
	must(t, err)
	defer old.Close()
	must(t, unix.Flock(int(old.Fd()), unix.LOCK_EX))

	claimed := make(chan error, 1)
	go func() {
		_, err := h.store().Claim(t.Context(), "/v", "s1")
		claimed <- err
	}()
	// The claimer waits for the old folder, or will find the new one; both must end in the new one.
	must(t, os.Rename(h.folder("/v"), filepath.Join(h.root(), ".tmp-old")))
	writeRecord(t, h.folder("/v"), `{"device":"`+h.device(t, "new")+`","fstype":"ext4"}`)
	must(t, old.Close())
	if err := <-claimed; err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrInvalid) {
		t.Fatal(err)
	} else if err != nil {
		_, err = h.store().Claim(t.Context(), "/v", "s1") // it looked in between the two steps above
		must(t, err)
	}
	if got := h.claims(t, "/v"); !slices.Equal(got, []string{"s1"}) {
		t.Fatalf("the claim is not in the folder that has the name: %q", got)
	}
}

func TestOfManySandboxesOneGetsTheVolume(t *testing.T) {
	h := newHost(t)
	h.added(t, "/v", h.device(t, "disk"))
	const sandboxes = 24
	for i := range sandboxes {
		h.alive(t, fmt.Sprintf("s%d", i))
	}
	store := h.store()
	var group sync.WaitGroup
	winners := make(chan string, sandboxes)
	for i := range sandboxes {
		group.Go(func() {
			id := fmt.Sprintf("s%d", i)
			switch _, err := store.Claim(t.Context(), "/v", id); {
			case err == nil:
				winners <- id
			case !errors.Is(err, ErrClaimed):
				t.Error(err)
			}
		})
	}
	group.Wait()
	close(winners)
	if len(winners) != 1 {
		t.Fatalf("%d sandboxes have the volume", len(winners))
	}
	if id, err := store.SandboxFor(t.Context(), "/v"); err != nil || id != <-winners {
		t.Fatalf("%q, %v", id, err)
	}
}

func TestOfManySandboxesAtMostOneGetsADeviceWithTwoRecords(t *testing.T) {
	h := newHost(t)
	disk := h.device(t, "disk")
	h.added(t, "/a", disk)
	h.added(t, "/b", disk)
	h.alive(t, "s1")
	h.alive(t, "s2")
	store := h.store()
	for range 50 {
		var group sync.WaitGroup
		errs := make([]error, 2)
		group.Go(func() { _, errs[0] = store.Claim(t.Context(), "/a", "s1") })
		group.Go(func() { _, errs[1] = store.Claim(t.Context(), "/b", "s2") })
		group.Wait()
		if errs[0] == nil && errs[1] == nil {
			t.Fatal("both have the disk")
		}
		for _, err := range errs {
			if err != nil && !errors.Is(err, ErrClaimed) {
				t.Fatal(err)
			}
		}
		must(t, store.ReleaseAll(t.Context(), "s1"))
		must(t, store.ReleaseAll(t.Context(), "s2"))
	}
}

// Adders, removers, claimers and readers of one path at once: every answer is one of the documented ones, and no
// reader ever sees a bad record.
func TestEverybodyAtOnceLeavesAWholeRecordOrNone(t *testing.T) {
	h := newHost(t)
	devices := []string{h.device(t, "disk-a"), h.device(t, "disk-b")}
	h.alive(t, "s1")
	h.alive(t, "s2")
	store := h.store()
	ctx := t.Context()
	allowed := func(what string, err error, others ...error) {
		for _, other := range others {
			if errors.Is(err, other) {
				return
			}
		}
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	var group sync.WaitGroup
	for worker := range 4 {
		group.Go(func() {
			for i := range 60 {
				allowed("Add", store.Add(ctx, "/v", h.record(devices[(worker+i)%2])), ErrClaimed)
				_, err := store.Get(ctx, "/v")
				allowed("Get", err, ErrNotFound)
				allowed("Remove", store.Remove(ctx, "/v"), ErrClaimed)
			}
		})
		group.Go(func() {
			id := []string{"s1", "s2"}[worker%2]
			for range 60 {
				_, err := store.Claim(ctx, "/v", id)
				allowed("Claim", err, ErrNotFound, ErrClaimed)
				_, err = store.List(ctx)
				allowed("List", err)
				allowed("Release", store.Release(ctx, "/v", id))
			}
		})
	}
	group.Wait()
	must(t, store.Remove(ctx, "/v"))
	if names := h.rootNames(t); len(names) != 0 {
		t.Fatalf("left over: %q", names)
	}
}
