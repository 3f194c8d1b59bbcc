package share

import (
	"slices"
	"testing"
)

func TestKatasArgumentsInTheWordsOfEitherDaemon(t *testing.T) {
	extra := []string{"--thread-pool-size=1", "--announce-submounts", "-o", "no_flock"}
	for _, tc := range []struct {
		name string
		got  func() ([]string, error)
		want []string
	}{
		{"the newer one takes them as they are",
			func() ([]string, error) { return rustDaemonArgs("none", extra, "/s"), nil },
			[]string{"--fd=3", "--shared-dir=/s", "--cache=never", "--thread-pool-size=1", "--announce-submounts", "-o", "no_flock"}},
		{"for the older one switches become options",
			func() ([]string, error) { return cDaemonArgs("never", extra, "/s") },
			[]string{"--fd=3", "-f", "-o", "source=/s", "-o", "cache=none", "--thread-pool-size=1", "-o", "announce_submounts", "-o", "no_flock"}},
	} {
		if got, err := tc.got(); err != nil || !slices.Equal(got, tc.want) {
			t.Errorf("%s: %q, %v; want %q", tc.name, got, err, tc.want)
		}
	}
	if _, err := cDaemonArgs("auto", nil, "/a,b"); err == nil {
		t.Error("a comma in the path would end the option, and was taken")
	}
}
