package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/katadirect/katadirect/pkg/agent/module"
)

// ErrIPTables is returned for rules that the kernel or its tool does not take;
// the tool's own words stand behind it.
var ErrIPTables = errors.New("iptables")

const (
	// tool is iptables in all its forms, of the kind that is the kernel's
	// own: it has no need of nftables' modules.
	tool = "/usr/sbin/xtables-legacy-multi"
	// maxRulesBytes bounds what is taken; what is given is bounded by what
	// runs the tool.
	maxRulesBytes = 64 << 10
	// ruleTime bounds one run.
	ruleTime = 30 * time.Second
)

// protocol is what differs between the two.
type protocol struct {
	name string // the tool's first argument begins with it
	// tables lists the tables that there are, and is not there before the
	// first.
	tables string
}

func protocolOf(ipv6 bool) protocol {
	if ipv6 {
		return protocol{"ip6tables", "/proc/net/ip6_tables_names"}
	}
	return protocol{"iptables", "/proc/net/ip_tables_names"}
}

// IPTables returns the rules in the form of iptables-save; nothing in a machine
// that never had any, for which nothing is loaded.
func (n *Network) IPTables(ctx context.Context, ipv6 bool) ([]byte, error) {
	p := protocolOf(ipv6)
	if _, err := os.Stat(p.tables); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return n.run(ctx, p.name+"-save")
}

// SetIPTables replaces the rules by those in data, which is what iptables-save
// writes, and returns what the tool has said.
func (n *Network) SetIPTables(ctx context.Context, ipv6 bool, data []byte) ([]byte, error) {
	if len(data) > maxRulesBytes {
		return nil, fmt.Errorf("%w: %w: %d bytes of rules are more than %d", ErrRequest, ErrIPTables, len(data), maxRulesBytes)
	}
	if err := n.Modules.Load(module.IPTables); err != nil {
		return nil, err
	}
	file, err := os.CreateTemp("", "rules-")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrIPTables, err)
	}
	defer os.Remove(file.Name())
	_, err = file.Write(data)
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrIPTables, err)
	}
	return n.run(ctx, protocolOf(ipv6).name+"-restore", "--wait", "10", file.Name())
}

func (n *Network) run(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, ruleTime)
	defer cancel()
	said, status, err := n.Tools(ctx, tool, args...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrIPTables, err)
	}
	if status != 0 {
		return nil, fmt.Errorf("%w: %s failed with status %d: %s", ErrIPTables, args[0], status, strings.TrimSpace(string(said)))
	}
	return said, nil
}
