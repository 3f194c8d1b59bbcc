package directvolume

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// An alias is a symbolic link in the root, from the name of a path as it was given to the record of the same path
// without symbolic links. containerd and CRI-O hand a mount's source on as kubelet wrote it unless its last component
// is a link, and Kata's runtimes look it up to the byte; so under a linked kubelet directory their way to our record
// is the alias. Our own code never follows one: it resolves the path instead.

// aliasTarget returns the name that an alias leads to, or "" if the name is none. Any other link is a bad record.
func aliasTarget(root *rootDir, name string) string {
	target := root.readlink(name)
	if target == "" {
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
	if err := unix.Symlinkat(names.resolved, root.fd(), temp); err != nil {
		return fmt.Errorf("make alias: %w", err)
	}
	if err := unix.Renameat(root.fd(), temp, root.fd(), names.literal); err != nil {
		return errors.Join(fmt.Errorf("make alias: %w", err), unix.Unlinkat(root.fd(), temp, 0))
	}
	return nil
}

// unlinkAlias removes the alias of a path, if it has one.
func unlinkAlias(root *rootDir, names recordNames) error {
	if !names.differ() || aliasTarget(root, names.literal) == "" {
		return nil
	}
	if err := unix.Unlinkat(root.fd(), names.literal, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove alias: %w", err)
	}
	return nil
}
