package mkfs

import (
	"fmt"
	"slices"
	"strings"
)

// option is a flag of a mkfs program and its value, "" if it takes none.
type option struct{ flag, value string }

// parse reads options as they stand on the program's command line: words with blanks between them, a flag and its
// value as two words. There is no quoting. Each flag comes once, because the programs do not agree on what a second
// one means.
func parse(fsType, text string) ([]option, error) {
	if len(text) > MaxBytes {
		return nil, fmt.Errorf("%w: they have %d bytes; %d are allowed", ErrOption, len(text), MaxBytes)
	}
	allowed := allowLists[fsType]
	var all []option
	for words := strings.Fields(text); len(words) > 0; words = words[1:] {
		o := option{flag: words[0]}
		values, known := allowed[o.flag]
		if !known {
			return nil, fmt.Errorf("%w: %q of %s; those that are: %s", ErrOption, o.flag, fsType, strings.Join(flags(fsType), " "))
		}
		if values.check != nil {
			if len(words) < 2 {
				return nil, fmt.Errorf("%w: %s of %s has no value", ErrOption, o.flag, fsType)
			}
			words = words[1:]
			o.value = words[0]
			if err := values.check(o.value); err != nil {
				return nil, fmt.Errorf("%w: %s %s of %s: %w", ErrOption, o.flag, o.value, fsType, err)
			}
		}
		if slices.ContainsFunc(all, func(other option) bool { return other.flag == o.flag }) {
			return nil, fmt.Errorf("%w: %s of %s stands there twice", ErrOption, o.flag, fsType)
		}
		all = append(all, o)
	}
	return all, nil
}

func flags(fsType string) []string {
	var all []string
	for flag := range allowLists[fsType] {
		all = append(all, flag)
	}
	slices.Sort(all)
	return all
}
