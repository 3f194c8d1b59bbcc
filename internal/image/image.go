// Package image makes container images out of files that the caller names, one layer each, with no registry and no
// Dockerfile. The lab and the cluster make theirs with it; what goes into them is theirs to say.
package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// File is a file, folder or symbolic link in an image.
type File struct {
	// Mode holds the permissions, set-user-ID and sticky bits as chmod(2) has them.
	Mode    int64
	Content []byte
	// Link is the target of a symbolic link; "" for everything else.
	Link string
	Dir  bool
	// UID owns it.
	UID int
}

// Files are a file system: path without a leading slash to file. Missing parent folders are made (0755).
type Files map[string]File

// Program is an executable file.
func Program(content []byte) File { return File{Mode: 0o755, Content: content} }

// Text is a file that everybody can read.
func Text(content string) File { return File{Mode: 0o644, Content: []byte(content)} }

// Link is a symbolic link.
func Link(target string) File { return File{Mode: 0o777, Link: target} }

// Dir is a folder.
func Dir(mode int64) File { return File{Mode: mode, Dir: true} }

// Add puts more files beside those there are.
func (f Files) Add(more Files) Files {
	maps.Copy(f, more)
	return f
}

// Layer is a layer with the files. The same files give the same layer.
func Layer(files Files) (v1.Layer, error) {
	all := Files{}
	for name, file := range files {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, ok := files[dir]; !ok {
				all[dir] = Dir(0o755)
			}
		}
		all[name] = file
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		file := all[name]
		header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: file.Mode, Size: int64(len(file.Content)), Uid: file.UID, Gid: file.UID}
		switch {
		case file.Dir:
			header.Typeflag, header.Name = tar.TypeDir, strings.TrimSuffix(name, "/")+"/"
		case file.Link != "":
			header.Typeflag, header.Linkname = tar.TypeSymlink, file.Link
		}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := w.Write(file.Content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(archive.Bytes())), nil
	}, tarball.WithCompressionLevel(gzip.BestSpeed))
}

// New is an image for this platform, of layers and what a container of it runs by default.
func New(config v1.Config, layers ...v1.Layer) (v1.Image, error) {
	image, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", "amd64", config
	return mutate.ConfigFile(image, file)
}
