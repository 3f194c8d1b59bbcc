package directvolume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// An alias is a symbolic link in the root, from the name of a path as it was given to the record of the same path
// without symbolic links. containerd and CRI-O hand a mount's source on as kubelet wrote it unless its last component
// is a link, and Kata's runtimes look it up to the byte; so under a linked kubelet directory their way to our record
// is the alias. Our own code never follows one: it resolves the path instead.

// isAlias reports whether the name is a link of the form that linkAlias makes. Any other link is a bad record.
func isAlias(root *rootDir, name string, info fs.FileInfo) bool {
	if info.Mode()&fs.ModeSymlink == 0 {
		return false
	}
	target, err := root.Readlink(name)
	if err != nil {
		return false
	}
	_, err = DecodeKey(target)
	return err == nil
}

// linkAlias makes the alias, if the path needs one, so that it is never seen half made.
func linkAlias(root *rootDir, names recordNames) error {
	if !names.differ() {
		return nil
	}
	if target, err := root.Readlink(names.literal); err == nil && target == names.resolved {
		return nil
	}
	temp := tempName()
	if err := root.Symlink(names.resolved, temp); err != nil {
		return fmt.Errorf("make alias: %w", err)
	}
	if err := root.Rename(temp, names.literal); err != nil {
		return errors.Join(fmt.Errorf("make alias: %w", err), root.Remove(temp))
	}
	return nil
}

// unlinkAlias removes the alias of a path, if it has one.
func unlinkAlias(root *rootDir, names recordNames) error {
	if !names.differ() {
		return nil
	}
	info, err := root.Lstat(names.literal)
	if errors.Is(err, os.ErrNotExist) || err == nil && !isAlias(root, names.literal, info) {
		return nil
	}
	if err == nil {
		err = root.Remove(names.literal)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove alias: %w", err)
	}
	return nil
}
