package pool

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katadirect/katadirect/pkg/csi/health"
)

// only checks that there is one problem, of that reason, whose sentence has the words; "" is for none.
func only(t *testing.T, found []health.Problem, severity health.Severity, reason string, words ...string) {
	t.Helper()
	if reason == "" {
		if len(found) > 0 {
			t.Errorf("something is wrong with what is well: %v", found)
		}
		return
	}
	if len(found) != 1 || found[0].Reason != reason || found[0].Severity != severity {
		t.Fatalf("got %+v, want %s", found, reason)
	}
	for _, word := range words {
		if !strings.Contains(found[0].Message, word) {
			t.Errorf("the message does not say %q: %s", word, found[0].Message)
		}
	}
}

func TestHealthOfAVolumeIsThatOfItsFolderAsItIsNow(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	for _, tc := range []struct {
		name     string
		harm     func(v Volume) error
		severity health.Severity
		reason   string
	}{
		{name: "well"},
		{"image gone", func(v Volume) error { return os.Remove(v.ImagePath) }, health.DataLoss, health.ImageMissing},
		{"folder gone", func(v Volume) error { return os.RemoveAll(filepath.Dir(v.ImagePath)) }, health.DataLoss, health.ImageMissing},
		{"image cut off", func(v Volume) error { return os.Truncate(v.ImagePath, v.SizeBytes-4096) }, health.DataLoss, health.ImageShort},
		{"image larger, as a machine may have made it", func(v Volume) error { return os.Truncate(v.ImagePath, v.SizeBytes+4096) }, 0, ""},
		{"a folder in its place", func(v Volume) error {
			return errors.Join(os.Remove(v.ImagePath), os.Mkdir(v.ImagePath, 0o700))
		}, health.Inaccessible, health.VolumeDamaged},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := create(t, p, tc.name, 16*mib)
			if tc.harm != nil {
				if err := tc.harm(v); err != nil {
					t.Fatal(err)
				}
			}
			found, err := p.VolumeHealth(t.Context(), v.ID)
			if err != nil {
				t.Fatal(err)
			}
			only(t, found, tc.severity, tc.reason)
		})
	}
	if _, err := p.VolumeHealth(t.Context(), p.ID("never made")); !errors.Is(err, ErrNotFound) {
		t.Errorf("a volume that is not there: %v", err)
	}
}

func TestHealthOfAVolumeThatWasDamagedWhenThePoolWasOpened(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	torn, gone := create(t, p, "torn", 16*mib), create(t, p, "gone", 16*mib)
	writeImage(t, torn, "data")
	closePool(t, p)
	write(t, filepath.Join(dir, torn.ID, metaName), "{")
	if err := os.Remove(gone.ImagePath); err != nil {
		t.Fatal(err)
	}
	p = open(t, dir)
	found, err := p.VolumeHealth(t.Context(), torn.ID)
	if err != nil {
		t.Fatal(err)
	}
	only(t, found, health.Inaccessible, health.VolumeDamaged, metaName)
	if found, err = p.VolumeHealth(t.Context(), gone.ID); err != nil {
		t.Fatal(err)
	}
	only(t, found, health.DataLoss, health.ImageMissing)
	only(t, p.Health(t.Context()), health.Degraded, health.DamagedVolumes, "2 volumes", torn.ID, gone.ID)
}

func TestHealthOfAPoolWhosePromisesSomethingElseHasBroken(t *testing.T) {
	dir := mountSmall(t, "ext4", 512*mib)
	p := open(t, dir)
	create(t, p, "v", 256*mib)
	only(t, p.Health(t.Context()), 0, "")
	write(t, filepath.Join(dir, "stranger"), strings.Repeat("x", int(230*mib)))
	only(t, p.Health(t.Context()), health.Degraded, health.PoolShort, dir, "lacks")
}

func TestHealthOfAPoolThatIsNearlyFull(t *testing.T) {
	dir := mountSmall(t, "tmpfs", 64*mib)
	p := open(t, dir)
	only(t, p.Health(t.Context()), 0, "")
	write(t, filepath.Join(dir, "stranger"), strings.Repeat("x", int(62*mib)))
	only(t, p.Health(t.Context()), health.Degraded, health.PoolNearlyFull, "2 of 64 MiB")
}

func TestHealthOfAPoolWithFewInodes(t *testing.T) {
	dir := mountSmall(t, "tmpfs", 64*mib)
	p := open(t, dir)
	command(t, "mount", "-o", "remount,nr_inodes=1100", dir)
	only(t, p.Health(t.Context()), 0, "")
	command(t, "mount", "-o", "remount,nr_inodes=900", dir)
	only(t, p.Health(t.Context()), health.Degraded, health.PoolFewInodes, dir, "inodes left")
}

func TestHealthOfAPoolWhoseFileSystemHasGoneReadOnlyAfterAnError(t *testing.T) {
	dir := mountSmall(t, "ext4", 64*mib)
	p := open(t, dir)
	only(t, p.Health(t.Context()), 0, "")
	command(t, "mount", "-o", "remount,errors=remount-ro", dir)
	source, err := exec.Command("findmnt", "-n", "-o", "SOURCE", dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	trigger := filepath.Join("/sys/fs/ext4", filepath.Base(strings.TrimSpace(string(source))), "trigger_fs_error")
	if err := os.WriteFile(trigger, []byte("a test"), 0o200); err != nil {
		t.Fatal(err)
	}
	only(t, p.Health(t.Context()), health.Degraded, health.PoolReadOnly, dir)
}

func TestAVolumeThatIsJustBeingDeletedHasNotLostItsData(t *testing.T) {
	p := open(t, t.TempDir())
	v := create(t, p, "pvc-1", gib)
	if err := p.renameAway(v.ID); err != nil { // as Delete begins; the index forgets the volume when that is durable
		t.Fatal(err)
	}
	if problems, err := p.VolumeHealth(t.Context(), v.ID); !errors.Is(err, ErrNotFound) || problems != nil {
		t.Errorf("got %v, %v; want %v", problems, err, ErrNotFound)
	}
}
