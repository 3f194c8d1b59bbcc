// Package version holds what a binary says of itself. It is set at link time and read by every command.
package version

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// Version is the release, set by the linker:
//
//	go build -ldflags "-X github.com/katadirect/katadirect/internal/version.Version=v0.1.0"
var Version = "dev"

// String is the one line that `program --version` prints.
func String(program string) string {
	return fmt.Sprintf("%s %s (%s, %s/%s)", program, Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// Revision is the commit the binary was built from, or "" where the toolchain did not record it.
func Revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return ""
}
