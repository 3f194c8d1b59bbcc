package kubenode_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/katadirect/katadirect/internal/nodeinstall/kubenode"
)

// answers stands in for an API server: it says what it was asked, and fails on request. What a real one makes of the
// same calls is tried in test/kubernetes.
type answers struct {
	mu    sync.Mutex
	asked []string
	fail  string
	// condition is the node's.
	condition map[string]any
}

func (a *answers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	call := r.Method + " " + strings.TrimPrefix(r.URL.Path, "/api/v1") + " " + r.Header.Get("Content-Type") + " " + string(body)
	if r.Method != http.MethodGet {
		a.asked = append(a.asked, call)
	}
	w.Header().Set("Content-Type", "application/json")
	if a.fail != "" && strings.Contains(call, a.fail) {
		w.WriteHeader(http.StatusForbidden)
		_ = json.NewEncoder(w).Encode(map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "not yours", "code": 403})
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"kind": "Node", "apiVersion": "v1",
		"metadata": map[string]any{"name": "n1", "labels": map[string]any{kubenode.Label: "true"}, "annotations": map[string]any{kubenode.VersionAnnotation: "v1"}},
		"status": map[string]any{
			"nodeInfo":   map[string]any{"containerRuntimeVersion": "containerd://2.2.9"},
			"conditions": []any{a.condition},
		},
	})
}

func newNode(t *testing.T) (*answers, *kubenode.Node) {
	t.Helper()
	a := &answers{condition: map[string]any{"type": kubenode.Condition, "status": "True", "lastTransitionTime": "2020-01-02T03:04:05Z"}}
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	node, err := kubenode.New("n1", &rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	return a, node
}

func TestWhatKubernetesIsTold(t *testing.T) {
	const label, status = "PATCH /nodes/n1 application/merge-patch+json ", "PATCH /nodes/n1/status application/strategic-merge-patch+json "
	for name, test := range map[string]struct {
		tell func(*kubenode.Node) error
		want []string // a part of each call
	}{
		"ready": {func(n *kubenode.Node) error { return n.SetReady(t.Context(), "v1") },
			[]string{label + `{"metadata":{"annotations":{"katadirect.io/runtime-version":"v1"},"labels":{"katadirect.io/runtime":"true"}}}`,
				// The state has not changed, so neither has the time of its last change.
				status + `{"status":{"conditions":[{"type":"KatadirectRuntimeReady","status":"True",`}},
		"failed": {func(n *kubenode.Node) error {
			return n.SetFailed(t.Context(), kubenode.Failed, strings.Repeat("x", 5000), false)
		},
			[]string{label + `{"metadata":{"annotations":{"katadirect.io/runtime-version":null},"labels":{"katadirect.io/runtime":null}}}`,
				status + `{"status":{"conditions":[{"type":"KatadirectRuntimeReady","status":"False",`, "POST /namespaces/default/events"}},
		"failed, still there": {func(n *kubenode.Node) error { return n.SetFailed(t.Context(), kubenode.Refused, "no", true) },
			[]string{status, "POST /namespaces/default/events"}},
		"leaving": {func(n *kubenode.Node) error { return n.Leave(t.Context()) }, []string{label + `{"metadata":{"annotations":{"katadirect.io/runtime-version":null`}},
		"gone": {func(n *kubenode.Node) error { return n.SetGone(t.Context()) },
			[]string{status + `{"status":{"conditions":[{"$patch":"delete","type":"KatadirectRuntimeReady"}]}}`, "POST /namespaces/default/events"}},
	} {
		t.Run(name, func(t *testing.T) {
			a, node := newNode(t)
			if err := test.tell(node); err != nil {
				t.Fatal(err)
			}
			matches := slices.EqualFunc(a.asked, test.want, strings.HasPrefix)
			if !matches {
				t.Errorf("asked\n%s\nwant\n%s", strings.Join(a.asked, "\n"), strings.Join(test.want, "\n"))
			}
			for _, call := range a.asked {
				if len(call) > 3000 {
					t.Errorf("a message of %d bytes, which the API does not take", len(call))
				}
			}
		})
	}
}

func TestTheSameFailureAgainMakesNoEvent(t *testing.T) {
	a, node := newNode(t)
	a.condition = map[string]any{"type": kubenode.Condition, "status": "False", "reason": kubenode.Failed, "message": "no"}
	if err := node.SetFailed(t.Context(), kubenode.Failed, "no", true); err != nil {
		t.Fatal(err)
	}
	if len(a.asked) != 1 {
		t.Errorf("asked %q", a.asked)
	}
	if err := node.SetFailed(t.Context(), kubenode.Failed, "something else", true); err != nil {
		t.Fatal(err)
	}
	if len(a.asked) != 3 {
		t.Errorf("asked %q", a.asked)
	}
}

func TestWhatKubernetesKnows(t *testing.T) {
	a, node := newNode(t)
	says, err := node.Says(t.Context())
	if err != nil || !says.Ready("v1") || says.Ready("v2") {
		t.Errorf("%+v, %v", says, err)
	}
	a.condition = map[string]any{"type": kubenode.Condition, "status": "False"}
	if says, err := node.Says(t.Context()); err != nil || says.Ready("v1") {
		t.Errorf("%+v, %v", says, err)
	}
}

func TestTheTimeOfTheLastChangeStays(t *testing.T) {
	a, node := newNode(t)
	if err := node.SetReady(t.Context(), "v2"); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(a.asked[1], `"lastTransitionTime":"2020-01-02T03:04:05Z"`) {
		t.Error(a.asked[1])
	}
}

func TestRefusalsOfTheAPIServerNameTheNode(t *testing.T) {
	a, node := newNode(t)
	a.fail = "PATCH"
	if err := node.SetReady(t.Context(), "v1"); err == nil || !strings.Contains(err.Error(), "n1") || !strings.Contains(err.Error(), "not yours") {
		t.Errorf("%v", err)
	}
	if got, err := node.Runtime(t.Context()); err != nil || got != "containerd://2.2.9" {
		t.Errorf("%q, %v", got, err)
	}
}
