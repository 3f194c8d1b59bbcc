package volume

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"unicode/utf8"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// ErrSubPath says that a mount's source lies inside the folder that stands for a direct volume, and that the part of
// the volume cannot be told. On the host that folder is empty: sharing a part of it would give the container a folder
// of the host's disk in the volume's stead.
var ErrSubPath = errors.New("this part (subPath) of a direct volume cannot be mounted")

// The storage by which our agent mounts a part of a volume: it opens the part inside the volume and nowhere else,
// whatever links the guest has put there, and makes it if it is missing.
const (
	driverSubPath = "katadirect.subpath"
	optionSubPath = "katadirect.io/subpath="
	// partsDir is where it mounts the parts. Each container has its own: one that was made anew since must not be the
	// old one for the next container.
	partsDir = "/run/kata-containers/sandbox/subpaths"
)

// place is what the source of a mount stands for.
type place struct {
	volume string // the path that the volume is recorded for
	inside string // the part of it, relative; "" is the whole volume
}

// locate finds the volume that source is, lies in, or is a bind mount of a part of, which is how kubelet prepares a
// subPath. directvolume.ErrNotFound: none of these.
func (s *Set) locate(ctx context.Context, source string) (place, error) {
	_, err := s.Records.Get(ctx, source)
	if !errors.Is(err, directvolume.ErrNotFound) {
		return place{volume: source}, err
	}
	notFound := err
	origins, err := originsOf(source)
	if err != nil {
		return place{}, err
	}
	for _, o := range origins {
		// The origin itself first: with subPath "." kubelet binds the volume's whole folder to another place.
		for dir, inside := o.path, ""; dir != "/" && dir != "."; dir, inside = filepath.Dir(dir), path.Join(filepath.Base(dir), inside) {
			_, err := s.Records.Get(ctx, dir)
			switch {
			case errors.Is(err, directvolume.ErrNotFound):
				continue
			case err != nil:
				return place{}, fmt.Errorf("%s lies in the direct volume %s: %w", source, dir, err)
			case o.deleted:
				return place{}, fmt.Errorf("%w: %s is a bind mount of a folder in %s that was deleted since; recreate the pod",
					ErrSubPath, source, dir)
			}
			return place{dir, inside}, checkInside(inside)
		}
	}
	return place{}, notFound
}

// checkInside refuses what cannot be told the guest; a message has only UTF-8 in it.
func checkInside(inside string) error {
	if !utf8.ValidString(inside) {
		return fmt.Errorf("%w: the name %q is not UTF-8", ErrSubPath, inside)
	}
	return nil
}

// part is what a Use has beyond that of the whole volume.
type part struct {
	guestPath string
	storage   *agentproto.Storage
}

// part says how the guest gets at the part of the volume that it mounts at guestPath. Kata's agent is given a path
// inside the volume, which has to exist there.
func (s *Set) part(container, guestPath string, p place) part {
	switch {
	case p.inside == "":
		return part{}
	case !s.Features.SubPath:
		return part{guestPath: path.Join(guestPath, p.inside)}
	}
	storage := PartOf(container, guestPath, p.inside)
	return part{storage.MountPoint, storage}
}

// PartOf has our agent make a part of what is mounted at guestPath visible at a mount point of the container's own.
func PartOf(container, guestPath, inside string) *agentproto.Storage {
	sum := sha256.Sum256([]byte(guestPath + "\x00" + inside))
	return &agentproto.Storage{
		Driver: driverSubPath, Source: guestPath, DriverOptions: []string{optionSubPath + inside},
		MountPoint: path.Join(partsDir, container+"-"+hex.EncodeToString(sum[:8])),
	}
}

// with narrows the use of a whole volume to a part of it.
func (u Use) with(p part) Use {
	if p.guestPath != "" {
		u.GuestPath = p.guestPath
	}
	if p.storage != nil {
		u.Storages = append(u.Storages, p.storage)
	}
	return u
}
