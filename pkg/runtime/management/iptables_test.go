package management

import (
	"errors"
	"strings"
	"testing"
)

func TestPacketFiltersAreReadAndReplacedAsByKata(t *testing.T) {
	b := &sandbox{}
	c, _ := serve(t, b)
	for _, path := range []string{"/iptables", "/ip6tables"} {
		if status, answer := ask(t, c, "PUT", path, "rules for "+path); status != 200 || answer != "said" {
			t.Errorf("PUT %s: %d %q", path, status, answer)
		}
		if status, answer := ask(t, c, "GET", path, ""); status != 200 || answer != "rules for "+path {
			t.Errorf("GET %s: %d %q", path, status, answer)
		}
		for _, method := range []string{"POST", "DELETE"} {
			if status, _ := ask(t, c, method, path, "x"); status != 501 {
				t.Errorf("%s %s: %d, want 501", method, path, status)
			}
		}
	}
	before := b.rules[true]
	if status, _ := ask(t, c, "PUT", "/ip6tables", strings.Repeat("x", 2*maxBodyBytes)); status != 500 || b.rules[true] != before {
		t.Errorf("a huge body: %d, rules of %d bytes", status, len(b.rules[true]))
	}
	b.fail = errors.New("iptables-restore: line 3 failed")
	for _, method := range []string{"GET", "PUT"} {
		if status, answer := ask(t, c, method, "/iptables", "x"); status != 500 || !strings.Contains(answer, "line 3 failed") {
			t.Errorf("%s that fails: %d %q", method, status, answer)
		}
	}
}
