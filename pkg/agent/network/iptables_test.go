package network

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"
)

// withTools runs the host's iptables in the test's own namespace; in a guest it is run as here, by the agent.
func withTools(t *testing.T) *Network {
	t.Helper()
	n := inNamespace(t)
	n.Tools = func(ctx context.Context, name string, args ...string) ([]byte, int, error) {
		said, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return said, exit.ExitCode(), nil
		}
		return said, 0, err
	}
	return n
}

func (n *Network) rules(t *testing.T, ipv6 bool) string {
	t.Helper()
	data, err := n.IPTables(t.Context(), ipv6)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

const proxied = `*nat
:PREROUTING ACCEPT [0:0]
:PROXY - [0:0]
-A PREROUTING -p tcp -m comment --comment "to the proxy" -j PROXY
-A PROXY -p tcp -m multiport --dports 80,443 -j REDIRECT --to-ports 15001
COMMIT
`

func TestRulesAreReplacedAndReadBack(t *testing.T) {
	n := withTools(t)
	if got := n.rules(t, false); got != "" {
		t.Fatalf("a new network has rules: %q", got)
	}
	for range 2 {
		if said, err := n.SetIPTables(t.Context(), false, []byte(proxied)); err != nil || len(said) > 0 {
			t.Fatalf("%q, %v", said, err)
		}
	}
	got := n.rules(t, false)
	if strings.Count(got, "-j PROXY") != 1 || strings.Count(got, "--to-ports 15001") != 1 {
		t.Errorf("the rules are\n%s", got)
	}
	if six := n.rules(t, true); strings.Contains(six, "PROXY") {
		t.Errorf("IPv6 has them too:\n%s", six)
	}
	// What has been read can be set.
	if _, err := n.SetIPTables(t.Context(), false, []byte(got)); err != nil {
		t.Error(err)
	}
	if _, err := n.SetIPTables(t.Context(), true, []byte("*filter\n:INPUT DROP [0:0]\nCOMMIT\n")); err != nil {
		t.Error(err)
	}
	if six := n.rules(t, true); !strings.Contains(six, ":INPUT DROP") {
		t.Errorf("IPv6 has\n%s", six)
	}
}

func TestRulesThatTheToolRefusesChangeNothing(t *testing.T) {
	n := withTools(t)
	if _, err := n.SetIPTables(t.Context(), false, []byte(proxied)); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ data, says string }{
		"no rules":         {"nonsense\n", "line 1"},
		"an unknown match": {"*nat\n-A PREROUTING -m nonsense -j ACCEPT\nCOMMIT\n", "nonsense"},
		"no such table":    {"*cellar\nCOMMIT\n", "cellar"},
		"half of it":       {"*nat\n:PREROUTING ACCEPT [0:0]\n", "COMMIT"},
		"an option":        {"--help\n", "line 1"},
	} {
		if _, err := n.SetIPTables(t.Context(), false, []byte(tc.data)); !errors.Is(err, ErrIPTables) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v, want the tool's words with %q", name, err, tc.says)
		}
	}
	if _, err := n.SetIPTables(t.Context(), false, make([]byte, maxRulesBytes+1)); !errors.Is(err, ErrRequest) {
		t.Errorf("too much: %v", err)
	}
	if got := n.rules(t, false); strings.Count(got, "--to-ports 15001") != 1 {
		t.Errorf("the rules are\n%s", got)
	}
}
