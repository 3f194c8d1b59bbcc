package guest

import (
	"errors"
	"io/fs"
	"os"
	"regexp"

	"golang.org/x/sys/unix"
)

// RemoveCopies removes what was copied into the guest for one container, by
// the names that Kata's shims give: its id, 16 hexadecimal digits, and what it
// is. Where the folder is the host's, over a file share, nothing is touched.
func RemoveCopies(container string) error { return removeCopies(SharedDir, container) }

func removeCopies(base, container string) error {
	var stat unix.Statfs_t
	err := unix.Statfs(base, &stat)
	if errors.Is(err, fs.ErrNotExist) || err == nil && stat.Type == unix.FUSE_SUPER_MAGIC {
		return nil
	}
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(base)
	if err != nil {
		return err
	}
	defer root.Close()
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	its := regexp.MustCompile("^" + regexp.QuoteMeta(container) + "-[0-9a-f]{16}-")
	var failures []error
	for _, name := range names {
		if its.MatchString(name) {
			failures = append(failures, root.RemoveAll(name))
		}
	}
	return errors.Join(failures...)
}
