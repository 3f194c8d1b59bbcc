package conformance

import (
	"fmt"
	"os"
	"strings"
)

// Files of the lists.
const (
	passesFile        = "passes.txt"
	notApplicableFile = "not-applicable.txt"
	noImageFile       = "no-image.txt"
	coreFile          = "core.txt"
)

// list maps the full names of specs to the reasons given.
type list map[string]string

// readList reads one of the files. A line that begins with # is a comment.
func readList(path string) (list, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	l := list{}
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, reason, _ := strings.Cut(line, " # ")
		name = strings.TrimSpace(name)
		if _, ok := l[name]; ok {
			return nil, fmt.Errorf("%s names %q twice", path, name)
		}
		l[name] = strings.TrimSpace(reason)
	}
	return l, nil
}
