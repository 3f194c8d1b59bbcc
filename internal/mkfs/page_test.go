package mkfs

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"testing"
)

// docs/storageclass.md has one row for every flag: | file system | `flag` | values | meaning |.
func TestThePageHasEveryFlagWithItsValues(t *testing.T) {
	text, err := os.ReadFile("../../docs/storageclass.md")
	if err != nil {
		t.Fatal(err)
	}
	got := regexp.MustCompile("(?m)^\\| [a-z0-9]+ \\| `-[^|]*\\|[^|]*\\|").FindAllString(string(text), -1)
	var want []string
	for fsType, flags := range allowLists {
		for flag, values := range flags {
			want = append(want, fmt.Sprintf("| %s | `%s` | %s |", fsType, flag, values.says))
		}
	}
	for _, row := range want {
		if !slices.Contains(got, row) {
			t.Errorf("missing on the page:\n%s", row)
		}
	}
	for _, row := range got {
		if !slices.Contains(want, row) {
			t.Errorf("on the page, and not so:\n%s", row)
		}
	}
}
