package main

import (
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

// reads are what was asked of the API server, as "verb resource", in the driver's namespace and elsewhere.
type reads struct {
	mu            sync.Mutex
	there, beside map[string]bool
}

// listen keeps what the server is asked.
func (r *reads) listen(s *apiServer) {
	inner := s.Config.Handler
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		r.add(request.URL.Path)
		inner.ServeHTTP(w, request)
	})
}

// add takes a path apart: /api/v1[/namespaces/N]/pods[/NAME[/proxy/…]], or /apis/GROUP/VERSION and so on.
func (r *reads) add(path string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	parts, group, into := strings.Split(strings.Trim(path, "/"), "/"), "", r.beside
	if parts[0] == "apis" {
		group, parts = "."+parts[1], parts[1:]
	}
	if parts = parts[2:]; parts[0] == "namespaces" {
		if parts[1] == "katadirect" {
			into = r.there
		}
		parts = parts[2:]
	}
	switch {
	case len(parts) == 1:
		into["list "+parts[0]+group] = true
	case len(parts) == 2:
		into["get "+parts[0]+group] = true
	default:
		into["get "+parts[0]+"/"+parts[2]+group] = true
	}
}

func allows(rules []rbacv1.PolicyRule) map[string]bool {
	all := map[string]bool{}
	for _, rule := range rules {
		group := ""
		if rule.APIGroups[0] != "" {
			group = "." + rule.APIGroups[0]
		}
		for _, resource := range rule.Resources {
			for _, verb := range rule.Verbs {
				all[verb+" "+resource+group] = true
			}
		}
	}
	return all
}

func TestTheRolesAllowWhatIsReadAndNoMore(t *testing.T) {
	text, err := os.ReadFile("../../deploy/kubectl/view.yaml")
	if err != nil {
		t.Fatal(err)
	}
	documents := strings.Split(string(text), "\n---\n")
	var everywhere, there rbacv1.ClusterRole // a Role's rules are the same
	for i, role := range []*rbacv1.ClusterRole{&everywhere, &there} {
		if err := yaml.UnmarshalStrict([]byte(documents[i]), role); err != nil {
			t.Fatal(err)
		}
	}

	r := &reads{there: map[string]bool{}, beside: map[string]bool{}}
	for _, args := range [][]string{
		{"volumes"}, {"volumes", "-A", "-o", "wide"}, {"describe", "data"}, {"top"}, {"volumes", "--driver-namespace", "katadirect"},
	} {
		s := shop(t)
		r.listen(s)
		if code, _, stderr := s.run(args...); code != exitOK {
			t.Fatalf("%v exits with %d: %s", args, code, stderr)
		}
	}
	if diff := cmp.Diff(r.beside, allows(everywhere.Rules)); diff != "" {
		t.Errorf("everywhere (-read +allowed):\n%s", diff)
	}
	if diff := cmp.Diff(r.there, allows(there.Rules)); diff != "" {
		t.Errorf("in the driver's namespace (-read +allowed):\n%s", diff)
	}
	if len(documents) != 2 || !slices.Equal([]string{everywhere.Kind, there.Kind}, []string{"ClusterRole", "Role"}) {
		t.Errorf("the roles are %s and %s of %d", everywhere.Kind, there.Kind, len(documents))
	}
}
