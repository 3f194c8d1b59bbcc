package share

import (
	"crypto/rand"
	"encoding/hex"
	"path/filepath"
)

// folder is one of the host's that the pod's containers share among each other.
//
// Each mount below the served tree is a file system of its own to the guest. Were one folder mounted for each container,
// a file in it would be two files there: a lock of the one container would not hold for the other, a socket could not be
// connected to, and what is in memory of it would be there twice, and differ. So it is mounted once, for as long as
// anybody uses it.
type folder struct {
	id    folderID
	path  string
	users int
}

// folderID tells folders apart. A folder that was deleted and made anew under the same name is another, and so is one
// that is read-only, or that nothing may be executed in, to one that is not.
type folderID struct {
	device, inode uint64
	flags         int64 // of the mount, as statfs(2) has them
}

// bind shares what source names under that name, or a folder that is shared already under its own, and returns the
// mount point.
func (s *Share) bind(container, source, name string, readOnly bool) (string, error) {
	c, err := newClone(source, readOnly)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.folders[c.id]; c.isDir && f != nil {
		f.users++
		s.containers[container] = append(s.containers[container], place{path: f.path, folder: f})
		return f.path, c.close()
	}
	target := filepath.Join(s.tree.mounts(), name)
	p := place{path: target, made: true}
	if c.isDir {
		p.folder = &folder{id: c.id, path: target, users: 1}
		s.folders[c.id] = p.folder
	}
	s.containers[container] = append(s.containers[container], p)
	if err := c.attach(target); err != nil {
		// The place stays on the list, and Release finds nothing there; but nobody else may be given it.
		delete(s.folders, c.id)
		return "", err
	}
	return target, nil
}

// releaseFolder takes a user away, and the mount with the last one. The caller holds the lock.
func (s *Share) releaseFolder(f *folder) error {
	if f.users > 1 {
		f.users--
		return nil
	}
	if s.folders[f.id] == f {
		delete(s.folders, f.id) // first: what fails half way must not be given to anybody else
	}
	return (place{path: f.path, made: true}).release()
}

// UniqueName is Kata's for a mount of a container: a name in GuestDir.
func UniqueName(container, destination string) string {
	var unique [8]byte
	_, _ = rand.Read(unique[:]) // never fails
	return container + "-" + hex.EncodeToString(unique[:]) + "-" + baseName(destination)
}
