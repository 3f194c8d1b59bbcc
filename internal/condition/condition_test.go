package condition_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/katadirect/katadirect/internal/condition"
)

func TestWhatIsFormattedIsParsedAgain(t *testing.T) {
	problems := []condition.Problem{
		{condition.ReadOnly, "the file system is read-only: after an error"},
		{condition.IOErrors, "3 reads failed"},
	}
	if got := condition.Parse(condition.Format(problems...)); !reflect.DeepEqual(got, problems) {
		t.Errorf("%q became %q", problems, got)
	}
	if got := condition.Format(); got != condition.OK {
		t.Errorf("nothing wrong is %q", got)
	}
}

func TestParseBelievesNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		message string
		want    []condition.Problem
	}{
		"a sentence":       {"disk on fire", []condition.Problem{{condition.ReportedByGuest, "disk on fire"}}},
		"a foreign reason": {"Evil: x", []condition.Problem{{condition.ReportedByGuest, "Evil: x"}}},
		"a reason twice": {"ReadOnly: a; b; ReadOnly: c", []condition.Problem{
			{condition.ReadOnly, "a; c"}, {condition.ReportedByGuest, "b"}}},
		"escape sequences": {"Read\x1bOnly: a\r\nb\xff", []condition.Problem{{condition.ReadOnly, "ab"}}},
		"nothing": {" \x00", []condition.Problem{
			{condition.ReportedByGuest, "the guest says that something is wrong, and not what"}}},
	} {
		if got := condition.Parse(tc.message); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: %q became %q, want %q", name, tc.message, got, tc.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", "OK", "ReadOnly: x; IOErrors: y", strings.Repeat("; a", 4000), "ReadOnly: "} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, message string) {
		seen, total := map[string]bool{}, 0
		found := condition.Parse(message)
		for _, p := range found {
			if seen[p.Reason] {
				t.Errorf("%q twice", p.Reason)
			}
			seen[p.Reason] = true
			total += len(p.Message)
		}
		if len(found) == 0 || total > 4<<10 {
			t.Errorf("%d problems of %d bytes", len(found), total)
		}
	})
}
