package storage

import (
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/katadirect/katadirect/internal/filesystem"
)

// selinuxState is there where the kernel enforces SELinux, or could.
var selinuxState = "/sys/fs/selinux/enforce"

// isSELinuxLabel says whether the label can stand in quotes in mount options.
func isSELinuxLabel(label string) bool {
	return label != "" && !strings.ContainsAny(label, "\"\\\n\x00")
}

// labelled adds the label that all files of a mount are to have. A kernel
// without SELinux takes no such option, so there it is left out, as mount(8)
// does.
func labelled(options filesystem.MountOptions, label string) filesystem.MountOptions {
	if label == "" {
		return options
	}
	if _, err := os.Stat(selinuxState); err != nil {
		slog.Debug("the guest has no SELinux, and files keep their labels", "label", label)
		return options
	}
	if options.Data != "" {
		options.Data += ","
	}
	options.Data += fmt.Sprintf("context=%q", label)
	return options
}
