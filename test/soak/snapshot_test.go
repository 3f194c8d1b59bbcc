package soak

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

// freezeLimit is how long a volume may stand still at most. The copy of what is in it takes a fraction of a second.
const freezeLimit = 30 * time.Second

// snapshot copies a volume's image while the guest holds it still. The copy must be a sound file system, and hold
// every file that was synced before.
func (p *pod) snapshot(ctx context.Context, r *rand.Rand) (err error) {
	v := p.volumes[r.IntN(len(p.volumes))]
	v.mu.RLock() // no file is removed meanwhile
	defer v.mu.RUnlock()
	written := maps.Clone(v.files)
	record, err := p.node.Records().Get(ctx, v.TargetPath(p.pod.UID))
	if err != nil {
		return err
	}
	copied := filepath.Join(p.node.Lab.Dir, "snapshot-"+v.FSType)
	defer func() { err = errors.Join(err, os.RemoveAll(copied)) }()
	err = p.node.Manage(p.pod, func(c *directvolume.Client) error {
		return copyFrozen(ctx, c, record.Device, copied)
	})
	if err != nil {
		return err
	}
	return v.checkCopy(ctx, copied, written)
}

func copyFrozen(ctx context.Context, c *directvolume.Client, device, to string) error {
	frozen, err := c.Freeze(ctx, device, freezeLimit)
	if refusal := (*directvolume.StatusError)(nil); errors.As(err, &refusal) && refusal.Code == http.StatusConflict {
		return errNotNow // its containers are just being restarted
	}
	if err != nil {
		return err
	}
	copyErr := run(ctx, "cp", "--sparse=always", device, to)
	thawed, err := c.Thaw(ctx, device, frozen.ID)
	if refusal := (*directvolume.StatusError)(nil); errors.As(err, &refusal) && refusal.Code == http.StatusConflict {
		err = errNotNow
	}
	if copyErr != nil {
		return copyErr
	}
	if err != nil {
		return err
	}
	if !thawed.WasFrozen {
		return errNotNow // a container that used it has ended meanwhile
	}
	return nil
}

// checkCopy has the file system's own checker look at the copy, and compares what it holds with what was written.
func (v *volume) checkCopy(ctx context.Context, image string, written map[string]string) error {
	if v.FSType == "xfs" {
		return checkXFS(ctx, image, written)
	}
	if err := run(ctx, "e2fsck", "-f", "-n", image); err != nil {
		return err
	}
	found := map[string]string{}
	for name := range written {
		content, err := exec.CommandContext(ctx, "debugfs", "-R", "cat /"+name, image).Output()
		if err != nil {
			return err
		}
		found[name] = fmt.Sprintf("%x", sha256.Sum256(content))
	}
	return compare(written, found)
}

// mountAndSum mounts an image where nobody else sees it, and prints the checksum of each file.
const mountAndSum = `mount -o loop,nouuid "$1" "$2" && (cd "$2" && find . -type f -exec sha256sum {} +) && umount "$2"`

// checkXFS mounts the copy first: a frozen xfs keeps its log dirty on purpose, so that a copy of it is put right when it
// is mounted.
func checkXFS(ctx context.Context, image string, written map[string]string) (err error) {
	point := image + "-mounted"
	if err := os.Mkdir(point, 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(point)) }()
	said, err := exec.CommandContext(ctx, "unshare", "--mount", "sh", "-c", mountAndSum, "sh", image, point).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mount the copy: %w: %s", err, said)
	}
	found := map[string]string{}
	for line := range strings.Lines(string(said)) {
		if sum, name, ok := strings.Cut(strings.TrimSpace(line), "  ./"); ok {
			found[name] = sum
		}
	}
	return errors.Join(compare(written, found), run(ctx, "xfs_repair", "-n", "-f", image))
}

func compare(written, found map[string]string) error {
	for name, want := range written {
		if got := found[name]; got != want {
			return fmt.Errorf("SNAPSHOT BROKEN: %s has the checksum %q, was written with %s", name, got, want)
		}
	}
	return nil
}

func run(ctx context.Context, name string, args ...string) error {
	if said, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %q: %w: %s", name, args, err, said)
	}
	return nil
}
