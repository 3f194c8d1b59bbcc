package hostfs_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/katadirect/katadirect/internal/nodeinstall/hostfs"
)

// host is a root folder beside a folder that is outside of it, with links of every kind.
func host(t *testing.T) (r *hostfs.Root, dir, outside string) {
	t.Helper()
	base := t.TempDir()
	dir, outside = filepath.Join(base, "host"), filepath.Join(base, "etc")
	for _, d := range []string{filepath.Join(dir, "etc", "containerd"), outside} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r, err := hostfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, dir, outside
}

func TestLinksLeadWhereTheyLeadOnTheHostAndNeverOutOfIt(t *testing.T) {
	for name, target := range map[string]string{
		"absolute": "/etc", "upwards": "../../../../../../etc", "to the real root": "/../etc",
	} {
		t.Run(name, func(t *testing.T) {
			r, dir, outside := host(t)
			if err := os.Symlink(target, filepath.Join(dir, "link")); err != nil {
				t.Fatal(err)
			}
			if err := r.WriteFile("/link/file", []byte("x"), 0o644); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(filepath.Join(dir, "etc", "file")); err != nil || string(got) != "x" {
				t.Errorf("the host's own /etc/file: %q, %v", got, err)
			}
			if entries, _ := os.ReadDir(outside); len(entries) != 0 {
				t.Errorf("something was written outside of the host: %v", entries)
			}
			if err := r.RemoveAll("/link"); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(filepath.Join(dir, "etc", "file")); err != nil {
				t.Errorf("a link was followed when it was removed: %v", err)
			}
		})
	}
}

func TestAFileThatIsALinkKeepsItsLinkWhenFollowed(t *testing.T) {
	r, dir, _ := host(t)
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "etc", "real.toml"), []byte("old"), 0o640),
		os.Symlink("/etc/middle", filepath.Join(dir, "etc", "containerd", "config.toml")),
		os.Symlink("real.toml", filepath.Join(dir, "etc", "middle")),
		os.Symlink("loop", filepath.Join(dir, "etc", "loop"))); err != nil {
		t.Fatal(err)
	}
	place, err := r.Follow("/etc/containerd/config.toml")
	if err != nil || place != "/etc/real.toml" {
		t.Fatalf("followed to %q, %v", place, err)
	}
	if err := r.WriteFile(place, []byte("new"), 0o640); err != nil {
		t.Fatal(err)
	}
	text, mode, err := r.ReadFile("/etc/containerd/config.toml")
	if err != nil || string(text) != "new" || mode != 0o640 {
		t.Errorf("read %q, mode %v, %v", text, mode, err)
	}
	if _, err := r.Follow("/etc/loop"); err == nil {
		t.Error("a link to itself was followed to its end")
	}
}

func TestWhatIsNoRegularFileIsNotRead(t *testing.T) {
	r, dir, _ := host(t)
	if err := os.Symlink("/dev/zero", filepath.Join(dir, "zero")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.ReadFile("/etc"); err == nil {
		t.Error("a folder was read")
	}
	if _, _, err := r.ReadFile("/zero"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a device outside of the host: %v", err)
	}
	big, err := os.Create(filepath.Join(dir, "big"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(big.Truncate(64<<20), big.Close()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.ReadFile("/big"); err == nil {
		t.Error("64 MiB were taken for a configuration")
	}
}

func TestOwnerAndModeOfAReplacedFileStay(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	r, dir, _ := host(t)
	place := filepath.Join(dir, "etc", "file")
	if err := errors.Join(os.WriteFile(place, []byte("old"), 0o600), os.Chown(place, 12, 34)); err != nil {
		t.Fatal(err)
	}
	if err := r.WriteFile("/etc/file", []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(place)
	if err != nil {
		t.Fatal(err)
	}
	if uid, gid := owner(info); uid != 12 || gid != 34 || info.Mode().Perm() != 0o600 {
		t.Errorf("owner %d:%d, mode %v", uid, gid, info.Mode())
	}
}

func TestRemovingWhatIsNotThereSucceeds(t *testing.T) {
	r, _, _ := host(t)
	if err := errors.Join(r.Remove("/no/such/file"), r.RemoveAll("/no/such"), r.RemoveTemporary("/no/such")); err != nil {
		t.Error(err)
	}
}
