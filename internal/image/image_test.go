package image

import (
	"archive/tar"
	"errors"
	"io"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func TestALayerHasTheFilesAndTheirFolders(t *testing.T) {
	files := Files{
		"usr/bin/tool": {Mode: 0o6755, Content: []byte("x"), UID: 7}, "bin": Link("usr/bin"),
		"tmp": Dir(0o1777), "etc/name": Text("me"),
	}
	layer, err := Layer(files)
	if err != nil {
		t.Fatal(err)
	}
	archive, err := layer.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	found := map[string]*tar.Header{}
	var order []string
	for r := tar.NewReader(archive); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		found[h.Name] = h
		order = append(order, h.Name)
	}
	for _, name := range []string{"usr/", "usr/bin/", "etc/"} {
		if h := found[name]; h == nil || h.Typeflag != tar.TypeDir || h.Mode != 0o755 {
			t.Errorf("%s is %+v in %q", name, h, order)
		}
	}
	if h := found["usr/bin/tool"]; h == nil || h.Mode != 0o6755 || h.Uid != 7 || h.Size != 1 {
		t.Errorf("the tool is %+v", h)
	}
	if h := found["bin"]; h == nil || h.Typeflag != tar.TypeSymlink || h.Linkname != "usr/bin" {
		t.Errorf("the link is %+v", h)
	}
	if h := found["tmp/"]; h == nil || h.Mode != 0o1777 {
		t.Errorf("the sticky folder is %+v", h)
	}
	again, err := Layer(files)
	if err != nil {
		t.Fatal(err)
	}
	first, _ := layer.Digest()
	if second, _ := again.Digest(); first != second {
		t.Errorf("%s and %s of the same files", first, second)
	}
}

func TestAnImageSaysWhatItRuns(t *testing.T) {
	layer, err := Layer(Files{"a": Text("b")})
	if err != nil {
		t.Fatal(err)
	}
	made, err := New(v1.Config{Cmd: []string{"sh"}, User: "7"}, layer)
	if err != nil {
		t.Fatal(err)
	}
	config, err := made.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.OS != "linux" || config.Config.User != "7" || config.Config.Cmd[0] != "sh" || len(config.RootFS.DiffIDs) != 1 {
		t.Errorf("the configuration is %+v", config)
	}
}
