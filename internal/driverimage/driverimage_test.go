package driverimage

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/katadirect/katadirect/internal/guestimage"
)

// standIns are options with a word in each program's and the guest's place.
func standIns(t *testing.T) Options {
	t.Helper()
	o := Options{BinDir: t.TempDir(), Version: "test", Guest: guestimage.Image{Dir: t.TempDir()}, Progress: func(what string) { t.Log(what) }}
	o.Guest.Kernel, o.Guest.Initrd = filepath.Join(o.Guest.Dir, "vmlinux"), filepath.Join(o.Guest.Dir, "initrd")
	files := []string{o.Guest.Kernel, o.Guest.Initrd, filepath.Join(o.Guest.Dir, "image.json")}
	for name := range programs {
		files = append(files, filepath.Join(o.BinDir, name))
	}
	for _, file := range files {
		if err := os.WriteFile(file, []byte(filepath.Base(file)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

func build(t *testing.T, o Options) v1.Image {
	t.Helper()
	image, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func TestTheSameFilesGiveTheSameImage(t *testing.T) {
	o := standIns(t)
	digests := map[v1.Hash]bool{}
	for range 2 {
		digest, err := build(t, o).Digest()
		if err != nil {
			t.Fatal(err)
		}
		digests[digest] = true
	}
	if len(digests) != 1 {
		t.Errorf("two builds gave %v", digests)
	}
	if err := os.WriteFile(filepath.Join(o.BinDir, "csi-node"), []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	digest, err := build(t, o).Digest()
	if err != nil || digests[digest] {
		t.Errorf("another program gives the same image (%v)", err)
	}
}

func TestAMissingProgramIsNamed(t *testing.T) {
	o := standIns(t)
	if err := os.Remove(filepath.Join(o.BinDir, "agent")); err != nil {
		t.Fatal(err)
	}
	if _, err := Build(t.Context(), o); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "agent") {
		t.Errorf("got %v", err)
	}
}

// The driver calls these by name; that they are whole only the programs themselves can say.
func TestTheToolsRunInTheImage(t *testing.T) {
	root := t.TempDir()
	unpack(t, build(t, standIns(t)), root)
	for _, tool := range [][]string{
		{"mkfs.ext4", "-V"}, {"mkfs.ext3", "-V"}, {"e2fsck", "-V"}, {"fsck.ext4", "-V"}, {"resize2fs"}, {"dumpe2fs", "-V"},
		{"mkfs.xfs", "-V"}, {"xfs_repair", "-V"}, {"xfs_growfs", "-V"}, {"mkfs.btrfs", "--version"}, {"btrfs", "--version"},
		{"mount", "--version"}, {"umount", "--version"}, {"blkid", "--version"},
	} {
		cmd := exec.Command("chroot", append([]string{root}, tool...)...)
		cmd.Env = Config("").Env
		said, err := cmd.CombinedOutput()
		if len(said) == 0 || strings.Contains(string(said), "not found") || strings.Contains(string(said), "shared libraries") {
			t.Errorf("%v: %v: %s", tool, err, said)
		}
	}
	for path, want := range map[string]string{
		"usr/local/bin/csi-node": "csi-node", "usr/libexec/katadirect/agent": "agent", "usr/share/katadirect/guest/vmlinux": "vmlinux",
	} {
		if is, err := os.ReadFile(filepath.Join(root, path)); string(is) != want {
			t.Errorf("%s holds %q (%v)", path, is, err)
		}
	}
}

func unpack(t *testing.T, image v1.Image, root string) {
	t.Helper()
	archive := mutate.Extract(image)
	defer archive.Close()
	for files := tar.NewReader(archive); ; {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		path := filepath.Join(root, header.Name)
		switch {
		case err != nil:
		case header.Typeflag == tar.TypeDir:
			err = os.MkdirAll(path, 0o755)
		case header.Typeflag == tar.TypeSymlink:
			err = os.Symlink(header.Linkname, path)
		default:
			var content []byte
			if content, err = io.ReadAll(files); err == nil {
				err = os.WriteFile(path, content, os.FileMode(header.Mode&0o777))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Nobody can run Docker in a test, but the Dockerfile can only differ in what it says itself: its files are Layers'.
func TestTheDockerfileSaysTheSame(t *testing.T) {
	text, err := os.ReadFile("../../deploy/image/Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	_, final, found := strings.Cut(strings.ReplaceAll(string(text), "\\\n", ""), "\nFROM scratch\n")
	if !found {
		t.Fatal("the image has something below its own files")
	}
	is := v1.Config{Labels: map[string]string{}}
	for line := range strings.Lines(final) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "ENV":
			is.Env = append(is.Env, rest)
		case "ENTRYPOINT":
			is.Entrypoint = strings.Split(strings.Trim(rest, `[]"`), `", "`)
		case "LABEL":
			for _, label := range strings.Fields(rest) {
				key, value, _ := strings.Cut(label, "=")
				is.Labels[key] = value
			}
		case "COPY":
			if rest != "--from=build /rootfs/ /" {
				t.Errorf("it copies %s", rest)
			}
		}
	}
	if diff := cmp.Diff(Config("$VERSION"), is); diff != "" {
		t.Errorf("the Dockerfile differs (-Config +Dockerfile):\n%s", diff)
	}
}
