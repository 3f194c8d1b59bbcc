package directvolume

import (
	"errors"
	"fmt"
	"io/fs"
)

// An alias is a symbolic link in the root, from the name of a path as it was given to the record of the same path
// without symbolic links. containerd and CRI-O hand a mount's source on as kubelet wrote it unless its last component
// is a link, and Kata's runtimes look it up to the byte; so under a linked kubelet directory their way to our record
// is the alias. Our own code never follows one: it resolves the path instead.

// aliasTarget returns the name that an alias leads to, or "" if the name is none. Any other link is a bad record.
func aliasTarget(root *rootDir, name string) string {
	target, err := root.Readlink(name)
	if err != nil {
		return ""
	}
	if _, err := DecodeKey(target); err != nil {
		return ""
	}
	return target
}

// linkAlias makes the alias, if the path needs one, so that it is never seen half made.
func linkAlias(root *rootDir, names recordNames) error {
	if !names.differ() {
		return nil
	}
	if aliasTarget(root, names.literal) == names.resolved {
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
	if !names.differ() || aliasTarget(root, names.literal) == "" {
		return nil
	}
	if err := root.Remove(names.literal); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove alias: %w", err)
	}
	return nil
}
