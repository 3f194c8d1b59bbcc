package guest_test

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/agentclient"
	"github.com/katadirect/katadirect/pkg/runtime/network"
	"github.com/katadirect/katadirect/pkg/runtime/qemu"
)

// rules has what proxies beside an application are set up with.
const rules = `*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:PROXY - [0:0]
-A PREROUTING -p tcp -m comment --comment "to the proxy" -j PROXY
-A PROXY -p tcp -m multiport --dports 80,443 -j REDIRECT --to-ports 15001
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -p tcp -m tcp --dport 8666 -j REJECT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
`

func (m *machine) rules(t *testing.T, ipv6 bool) string {
	t.Helper()
	r, err := m.agent.GetIPTables(t.Context(), &agentproto.GetIPTablesRequest{IsIpv6: ipv6})
	if err != nil {
		t.Fatal(err)
	}
	return string(r.GetData())
}

// TestPacketFilters has its machine on a network, to see that rules do what they say.
func TestPacketFilters(t *testing.T) {
	pod, host := simplePod(t)
	m := join(t, pod, network.TCFilter, qemu.Config{}, 1)
	if got := m.rules(t, false); got != "" {
		t.Errorf("a new machine has rules: %q", got)
	}
	set := func(ipv6 bool, data string) error {
		_, err := m.agent.SetIPTables(t.Context(), &agentproto.SetIPTablesRequest{IsIpv6: ipv6, Data: []byte(data)})
		return err
	}
	for range 2 { // again replaces
		if err := set(false, rules); err != nil {
			t.Fatal(err)
		}
	}
	got := m.rules(t, false)
	for line := range strings.Lines(rules) {
		if strings.HasPrefix(line, "-A") && strings.Count(got, strings.TrimSuffix(strings.TrimSpace(line), " -j REJECT")) != 1 {
			t.Errorf("%q is not there once:\n%s", line, got)
		}
	}
	if got := m.rules(t, true); strings.Contains(got, "8666") {
		t.Errorf("IPv6 has them too:\n%s", got)
	}
	if err := set(true, "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp -m tcp --dport 8667 -j REJECT\nCOMMIT\n"); err != nil {
		t.Error(err)
	}
	if got := m.rules(t, true); !strings.Contains(got, "8667") {
		t.Errorf("IPv6 has\n%s", got)
	}

	c := m.networked(t)
	for _, port := range []string{"8666", "8080"} {
		c.exec(newID("exec"), spec("timeout 60 nc -l -p "+port+" -e cat").Process)
	}
	_ = host.dial("10.5.0.2:8080").Close() // which waits for the server
	if err := host.try("10.5.0.2:8666"); err == nil {
		t.Error("a port that is closed to the network answered")
	}

	for name, data := range map[string]string{
		"no rules": "nonsense\n", "an unknown match": "*filter\n-A INPUT -m nonsense -j ACCEPT\nCOMMIT\n", "no such table": "*cellar\nCOMMIT\n",
	} {
		if err := set(false, data); err == nil || !strings.Contains(err.Error(), "iptables-restore") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if after := m.rules(t, false); strings.Count(after, "\n-A") != strings.Count(got, "\n-A") {
		t.Errorf("rules that were refused have changed the others:\n%s", after)
	}
	if err := set(false, "#"+strings.Repeat("x", 65<<10)); !agentclient.IsCode(err, codes.InvalidArgument) {
		t.Errorf("too much: %v", err)
	}
}
