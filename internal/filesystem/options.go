package filesystem

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// MountOptions are what mount(2) takes.
type MountOptions struct {
	Flags uintptr
	Data  string // comma separated, for the file system
	// Bind and Recursive are set by "bind" and "rbind", which are not in
	// Flags: whether a bind mount is meant is for the caller to say.
	Bind, Recursive bool
}

// ReadOnly says whether the mount is to refuse writes.
func (o MountOptions) ReadOnly() bool { return o.Flags&unix.MS_RDONLY != 0 }

// flagOptions are the options that are flags to mount(2). Those that clear one
// have clear set.
var flagOptions = map[string]struct {
	flag  uintptr
	clear bool
}{
	"ro":            {unix.MS_RDONLY, false},
	"rw":            {unix.MS_RDONLY, true},
	"nosuid":        {unix.MS_NOSUID, false},
	"suid":          {unix.MS_NOSUID, true},
	"nodev":         {unix.MS_NODEV, false},
	"dev":           {unix.MS_NODEV, true},
	"noexec":        {unix.MS_NOEXEC, false},
	"exec":          {unix.MS_NOEXEC, true},
	"sync":          {unix.MS_SYNCHRONOUS, false},
	"async":         {unix.MS_SYNCHRONOUS, true},
	"dirsync":       {unix.MS_DIRSYNC, false},
	"mand":          {unix.MS_MANDLOCK, false},
	"nomand":        {unix.MS_MANDLOCK, true},
	"noatime":       {unix.MS_NOATIME, false},
	"atime":         {unix.MS_NOATIME, true},
	"nodiratime":    {unix.MS_NODIRATIME, false},
	"diratime":      {unix.MS_NODIRATIME, true},
	"relatime":      {unix.MS_RELATIME, false},
	"norelatime":    {unix.MS_RELATIME, true},
	"strictatime":   {unix.MS_STRICTATIME, false},
	"nostrictatime": {unix.MS_STRICTATIME, true},
	"lazytime":      {unix.MS_LAZYTIME, false},
	"nolazytime":    {unix.MS_LAZYTIME, true},
	"iversion":      {unix.MS_I_VERSION, false},
	"noiversion":    {unix.MS_I_VERSION, true},
	"silent":        {unix.MS_SILENT, false},
	"loud":          {unix.MS_SILENT, true},
	"nosymfollow":   {nosymfollow, false},
	"symfollow":     {nosymfollow, true},
}

// nosymfollow is MS_NOSYMFOLLOW, which x/sys has no name for.
const nosymfollow = 0x100

// refusedOptions would turn the mount into another kind of operation.
var refusedOptions = map[string]string{
	"loop":    "the device is a disk of the machine already",
	"remount": "it is a first mount",
	"move":    "it is a first mount",
}

// ParseOptions turns options as mount -o takes them into those of mount(2).
// Each element may itself be a comma separated list. Words that only mount(8)
// and fstab know are dropped.
func ParseOptions(options []string) (MountOptions, error) {
	var parsed MountOptions
	var data []string
	for word := range strings.SplitSeq(strings.Join(options, ","), ",") {
		if err := checkOption(word); err != nil {
			return MountOptions{}, err
		}
		known, isFlag := flagOptions[word]
		switch {
		case isFlag && known.clear:
			parsed.Flags &^= known.flag
		case isFlag:
			parsed.Flags |= known.flag
		case word == "bind":
			parsed.Bind = true
		case word == "rbind":
			parsed.Bind, parsed.Recursive = true, true
		case !onlyForUserland(word):
			data = append(data, word)
		}
	}
	parsed.Data = strings.Join(data, ",")
	// The kernel copies one page, with the closing zero.
	if len(parsed.Data) >= os.Getpagesize() {
		return MountOptions{}, fmt.Errorf("%w: %d bytes, at most %d", ErrOptions, len(parsed.Data), os.Getpagesize()-1)
	}
	return parsed, nil
}

func checkOption(word string) error {
	if why, refused := refusedOptions[word]; refused {
		return fmt.Errorf("%w: %q: %s", ErrOptions, word, why)
	}
	if strings.ContainsRune(word, 0) {
		return fmt.Errorf("%w: %q contains a zero byte", ErrOptions, word)
	}
	return nil
}

func onlyForUserland(word string) bool {
	switch word {
	case "", "defaults", "auto", "noauto", "nofail", "_netdev", "user", "nouser", "users", "owner", "group":
		return true
	}
	return strings.HasPrefix(word, "x-") || strings.HasPrefix(word, "X-") || strings.HasPrefix(word, "comment=")
}
