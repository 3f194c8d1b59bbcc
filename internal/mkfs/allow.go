package mkfs

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// accepts are the values that a flag takes. One that takes none is the zero value.
type accepts struct {
	says  string // which they are, as docs/storageclass.md does
	check func(value string) error
}

// allowLists are the flags that a class may choose, by file system. What is left out, and why:
//
//   - what names a file or another device (-J device=, -l logdev=, -r, -d name=, -c, -z), and what forces (-F, -f);
//   - what takes safety away: no journal, no checksums, continuing after errors;
//   - what keeps a volume from growing while it is in use (bigalloc, sparse_super2, no resize_inode);
//   - what the guest's kernel cannot mount (blocks larger than a page, encrypt, casefold, ext's quota);
//   - what makes the file system another size than the device.
var allowLists = map[string]map[string]accepts{
	"ext4": {
		"-b": oneOf("1024", "2048", "4096"),
		"-i": number(1024, 1<<26),
		"-I": oneOf("256", "512", "1024", "2048", "4096"),
		"-N": number(16, 1<<32-1),
		"-m": percent(50),
		"-L": label(16),
		"-T": oneOf("default", "small", "news", "largefile", "largefile4", "big", "huge"),
		"-J": list(map[string]accepts{"size": number(1, 1<<20), "fast_commit_size": number(1, 1<<20)}),
		"-O": features("64bit", "^64bit", "dir_index", "dir_nlink", "ea_inode", "^ea_inode", "ext_attr", "extra_isize",
			"fast_commit", "^fast_commit", "filetype", "flex_bg", "^flex_bg", "huge_file", "inline_data", "^inline_data",
			"large_dir", "^large_dir", "large_file", "metadata_csum", "metadata_csum_seed", "^metadata_csum_seed",
			"orphan_file", "^orphan_file", "project", "^project", "verity", "^verity"),
		"-E": list(map[string]accepts{
			"stride": number(1, 1<<20), "stripe_width": number(1, 1<<20), "stripe-width": number(1, 1<<20),
			"lazy_itable_init": bit, "lazy_journal_init": bit, "packed_meta_blocks": bit,
		}),
	},
	"xfs": {
		"-b": list(map[string]accepts{"size": oneOf("1024", "2048", "4096", "1k", "2k", "4k")}),
		"-d": list(map[string]accepts{
			"agcount": number(1, 1<<20), "agsize": size, "su": size, "sw": number(1, 1<<20), "sunit": number(0, 1<<30),
			"swidth": number(0, 1<<30), "noalign": {}, "extszinherit": number(0, 1<<20), "cowextsize": number(0, 1<<20),
		}),
		"-i": list(map[string]accepts{
			"size": oneOf("256", "512", "1024", "2048"), "maxpct": number(0, 100), "sparse": bit, "nrext64": bit,
		}),
		"-l": list(map[string]accepts{"size": size, "su": size, "sunit": number(0, 1<<20)}),
		"-m": list(map[string]accepts{
			"crc": oneOf("1"), "finobt": bit, "rmapbt": bit, "reflink": bit, "bigtime": bit, "inobtcount": bit,
		}),
		"-n": list(map[string]accepts{"size": oneOf("4096", "8192", "16384", "32768", "65536", "4k", "8k", "16k", "32k", "64k")}),
		"-s": list(map[string]accepts{"size": oneOf("512", "4096", "4k")}),
		"-L": label(12),
	},
	"btrfs": {
		"-n":         oneOf("4096", "8192", "16384", "32768", "65536", "4k", "8k", "16k", "32k", "64k"),
		"--nodesize": oneOf("4096", "8192", "16384", "32768", "65536", "4k", "8k", "16k", "32k", "64k"),
		"-d":         oneOf("single", "dup"),
		"-m":         oneOf("single", "dup"),
		"-M":         {says: "no value"},
		"-O":         features("extref", "skinny-metadata", "no-holes", "^no-holes"),
		"-R":         features("free-space-tree", "^free-space-tree", "quota"),
		"-L":         label(64),
	},
}

func oneOf(values ...string) accepts {
	return accepts{code(values), func(value string) error {
		if !slices.Contains(values, value) {
			return fmt.Errorf("it is none of %s", strings.Join(values, " "))
		}
		return nil
	}}
}

// code are words as a page has them.
func code(words []string) string { return "`" + strings.Join(words, "` `") + "`" }

// digits reports whether s is a number in decimal notation and nothing more: no sign, no prefix, no underscore.
func digits(s string) bool { return s != "" && len(s) <= 19 && strings.Trim(s, "0123456789") == "" }

func number(least, most uint64) accepts {
	return accepts{fmt.Sprintf("%d to %d", least, most), func(value string) error {
		n, err := strconv.ParseUint(value, 10, 64)
		if !digits(value) || err != nil || n < least || n > most {
			return fmt.Errorf("it is no number from %d to %d", least, most)
		}
		return nil
	}}
}

var bit = oneOf("0", "1")

// size is a number with one of mkfs.xfs' suffixes: KiB, MiB, GiB, or blocks.
var size = accepts{"SIZE", func(value string) error {
	n := value
	if n != "" && strings.ContainsRune("kmgb", rune(n[len(n)-1])) {
		n = n[:len(n)-1]
	}
	if !digits(n) {
		return fmt.Errorf("it is no size: a number, and k, m, g or b (blocks) after it")
	}
	return nil
}}

// percent is a number with or without a decimal point, up to most.
func percent(most float64) accepts {
	return accepts{fmt.Sprintf("0 to %g, or a fraction", most), func(value string) error {
		whole, part, point := strings.Cut(value, ".")
		n, err := strconv.ParseFloat(value, 64)
		if !digits(whole) || point && !digits(part) || err != nil || n > most {
			return fmt.Errorf("it is no percentage up to %g", most)
		}
		return nil
	}}
}

// label is a name of letters, digits, "-", "_" and ".", that begins with none of the latter.
func label(most int) accepts {
	return accepts{fmt.Sprintf("1 to %d bytes", most), func(value string) error {
		for i, c := range []byte(value) {
			letterOrDigit := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
			if !letterOrDigit && (i == 0 || !strings.ContainsRune("-_.", rune(c))) {
				return fmt.Errorf("a label begins with a letter or digit, and has only those and \"-\", \"_\", \".\" in it")
			}
		}
		if value == "" || len(value) > most {
			return fmt.Errorf("a label has 1 to %d bytes", most)
		}
		return nil
	}}
}

// features is a list of words joined by commas; "^" turns one off.
func features(words ...string) accepts {
	known := oneOf(words...)
	return accepts{known.says, func(value string) error {
		for word := range strings.SplitSeq(value, ",") {
			if err := known.check(word); err != nil {
				return fmt.Errorf("%s: %w", word, err)
			}
		}
		return nil
	}}
}

// list is a list of key=value, or key where no value is taken, joined by commas.
func list(keys map[string]accepts) accepts {
	var says []string
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if values := keys[key]; values.check == nil {
			says = append(says, "`"+key+"`")
		} else {
			says = append(says, "`"+key+"=` "+values.says)
		}
	}
	return accepts{strings.Join(says, " · "), func(value string) error {
		for word := range strings.SplitSeq(value, ",") {
			key, v, given := strings.Cut(word, "=")
			values, known := keys[key]
			if !known || given != (values.check != nil) {
				return fmt.Errorf("%q is not known", word)
			}
			if values.check == nil {
				continue
			}
			if err := values.check(v); err != nil {
				return fmt.Errorf("%s: %w", word, err)
			}
		}
		return nil
	}}
}
