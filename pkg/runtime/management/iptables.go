package management

import (
	"errors"
	"fmt"
	"io"
	"net/http"
)

// Kata's paths for the packet filters of a guest.
const (
	pathIPTables  = "/iptables"
	pathIP6Tables = "/ip6tables"
)

// errMethod is for a method that a path does not have. Kata says 501, not 405.
var errMethod = errors.New("method not implemented")

// ipTables answers GET with the rules in the form of iptables-save, and takes the same with PUT.
func ipTables(b Backend, w http.ResponseWriter, r *http.Request, ipv6 bool) error {
	var answer []byte
	var err error
	switch r.Method {
	case http.MethodGet:
		answer, err = b.IPTables(r.Context(), ipv6)
	case http.MethodPut:
		var rules []byte
		if rules, err = io.ReadAll(r.Body); err != nil {
			return fmt.Errorf("read the request: %w", err)
		}
		answer, err = b.SetIPTables(r.Context(), ipv6, rules)
	default:
		return fmt.Errorf("%s %s: %w", r.Method, r.URL.Path, errMethod)
	}
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write(answer)
	return nil
}
