package csi

import (
	"slices"
	"strings"
)

// Mount options go into the record and from there to the guest's mount(2). Only those named here do. What is left out
// and why: bind, loop, remount and the like are not mounts of a device; suid, dev and exec undo what the guest's agent
// decides; nobarrier, data=writeback, norecovery, degraded and rescue lose data; options naming other devices (logdev,
// journal_path, device) reach beyond the volume; errors=panic and fatal_errors end the whole pod; subvol hides a part of
// the volume from whoever measures it, and user_subvol_rm_allowed lets anybody delete one.
var (
	// flagOptions take no value, on every file system.
	flagOptions = []string{
		"ro", "rw", "noatime", "nodiratime", "relatime", "strictatime", "lazytime", "nolazytime",
		"nosuid", "nodev", "noexec", "sync", "dirsync", "discard", "nodiscard",
	}
	// fsOptions are those of one file system. A name ending in "=" or ":" is followed by a number.
	fsOptions = map[string][]string{
		"btrfs": {
			"acl", "noacl", "autodefrag", "noautodefrag", "commit=", "compress", "compress=no", "compress=lzo", "compress=zlib",
			"compress=zlib:", "compress=zstd", "compress=zstd:", "compress-force", "compress-force=lzo", "compress-force=zlib",
			"compress-force=zlib:", "compress-force=zstd", "compress-force=zstd:", "datacow", "nodatacow", "datasum",
			"nodatasum", "discard=async", "discard=sync", "flushoncommit", "noflushoncommit", "max_inline=",
			"metadata_ratio=", "space_cache=v2", "ssd", "nossd", "ssd_spread", "nossd_spread", "thread_pool=", "treelog",
			"notreelog",
		},
		"ext4": {
			"acl", "noacl", "user_xattr", "nouser_xattr", "delalloc", "nodelalloc", "auto_da_alloc", "barrier",
			"barrier=1", "journal_checksum", "init_itable=", "noinit_itable", "commit=", "stripe=",
			"data=ordered", "data=journal", "dioread_lock", "dioread_nolock", "errors=remount-ro", "inode_readahead_blks=",
			"max_batch_time=", "min_batch_time=",
		},
		"xfs": {
			"inode64", "inode32", "largeio", "nolargeio", "swalloc", "allocsize=", "logbufs=", "logbsize=",
			"filestreams", "uquota", "usrquota", "gquota", "grpquota", "pquota", "prjquota", "noalign", "nouuid", "sunit=", "swidth=", "wsync",
		},
	}
)

// sizeOptions are those whose number the kernel takes with a suffix, too.
var sizeOptions = []string{"allocsize=", "logbsize=", "max_inline="}

// maxOptionBytes is far more than any option on the list needs.
const maxOptionBytes = 64

// parseMountOptions returns the options, each once and in order, or an error that names the first one not on the
// list. An element may hold several options, joined by commas as mount(8) takes them. Where the file system is not
// known yet, the options of all of them pass.
func parseMountOptions(fsType string, flags []string) ([]string, error) {
	var options []string
	for _, flag := range flags {
		for option := range strings.SplitSeq(flag, ",") {
			if !optionAllowed(fsType, option) {
				return nil, failf(ErrInvalidArgument, "mount option %q is not allowed; docs/storageclass.md lists those that are", option)
			}
			if !slices.Contains(options, option) {
				options = append(options, option)
			}
		}
	}
	if slices.Contains(options, "ro") && slices.Contains(options, "rw") {
		return nil, failf(ErrInvalidArgument, "mount options say both ro and rw")
	}
	// rw is what a mount without options is.
	return slices.DeleteFunc(options, func(o string) bool { return o == "rw" }), nil
}

func optionAllowed(fsType, option string) bool {
	if len(option) > maxOptionBytes {
		return false
	}
	if slices.Contains(flagOptions, option) {
		return true
	}
	for _, name := range supportedFileSystems {
		if (fsType == "" || fsType == name) && slices.ContainsFunc(fsOptions[name], func(known string) bool {
			return optionMatches(known, option)
		}) {
			return true
		}
	}
	return false
}

// optionMatches compares with one entry of the list. Values are numbers, with a suffix if they are sizes.
func optionMatches(known, option string) bool {
	if !strings.HasSuffix(known, "=") && !strings.HasSuffix(known, ":") {
		return known == option
	}
	value, found := strings.CutPrefix(option, known)
	digits := value
	if slices.Contains(sizeOptions, known) {
		digits = strings.TrimRight(value, "kKmMgG")
	}
	return found && len(value)-len(digits) <= 1 && digits != "" && strings.Trim(digits, "0123456789") == ""
}
