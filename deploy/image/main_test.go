package main

import (
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/katadirect/katadirect/internal/image"
)

func sample(t *testing.T) (v1.Image, v1.Hash) {
	t.Helper()
	layer, err := image.Layer(image.Files{"etc/word": image.Text("word"), "usr/bin/tool": image.Program([]byte("tool")), "bin": image.Link("usr/bin"), "tmp": image.Dir(0o1777)})
	if err != nil {
		t.Fatal(err)
	}
	made, err := image.New(v1.Config{Entrypoint: []string{"/usr/bin/tool"}}, layer)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := made.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return made, digest
}

func TestArchiveAndLayoutHoldTheImage(t *testing.T) {
	made, want := sample(t)
	dir := filepath.Join(t.TempDir(), "out")
	for range 2 { // the second time over the first's
		if err := put(t.Context(), made, "example.org/a:b", false, dir, "a.tar"); err != nil {
			t.Fatal(err)
		}
	}
	tag, _ := name.NewTag("example.org/a:b")
	archive, err := tarball.ImageFromPath(filepath.Join(dir, "a.tar"), &tag)
	if err != nil {
		t.Fatal(err)
	}
	// An archive of docker save has its layers uncompressed or not; the configuration names what they unpack to.
	is, err1 := archive.ConfigName()
	was, err2 := made.ConfigName()
	if is != was || err1 != nil || err2 != nil {
		t.Errorf("the archive holds %v, want %v", is, was)
	}
	index, err := layout.ImageIndexFromPath(filepath.Join(dir, "a-oci"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := index.Image(want); err != nil {
		t.Errorf("the layout: %v", err)
	}
}

func TestAPushedImageIsThere(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	made, want := sample(t)
	named := strings.TrimPrefix(server.URL, "http://") + "/a:b"
	if err := put(t.Context(), made, named, true, "", "a.tar"); err != nil {
		t.Fatal(err)
	}
	tag, _ := name.NewTag(named)
	if is, err := remote.Head(tag); err != nil || is.Digest != want {
		t.Errorf("%v, %v", is, err)
	}
	server.Close()
	if err := put(t.Context(), made, named, true, "", "a.tar"); err == nil || !strings.Contains(err.Error(), named) {
		t.Errorf("nobody there: %v", err)
	}
}

func TestATreeIsTheImagesFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tree")
	layers := []image.Files{{"tmp": image.Dir(0o1777), "bin": image.Link("usr/bin")}, {"usr/bin/tool": image.Program([]byte("tool"))}}
	if err := writeTree(dir, layers); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "bin/tool"))
	if err != nil || info.Mode() != 0o755 {
		t.Errorf("%v, %v", info, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "tmp")); err != nil || info.Mode()&os.ModeSticky == 0 || info.Mode().Perm() != 0o777 {
		t.Errorf("%v, %v", info, err)
	}
	if err := writeTree(dir, layers); err == nil {
		t.Error("it is written over what is there")
	}
}

func TestBadArgumentsAreExplained(t *testing.T) {
	for _, args := range [][]string{{}, {"--out", "a", "--tree", "b"}, {"--out", "a", "more"}, {"--colour"}} {
		if err := run(t.Context(), args); err == nil {
			t.Errorf("%q is taken", args)
		}
	}
}
