package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// apiServer answers what the plugin asks, from objects as text and from handlers by path. It stands in for the real one
// to refuse, and to be slow, on request.
type apiServer struct {
	t       *testing.T
	objects map[string][]map[string]any // by plural
	paths   map[string]http.HandlerFunc
	*httptest.Server
}

// serve starts an API server with the objects of the YAML documents. AGO(x) in them is the time that long before now.
func serve(t *testing.T, documents string) *apiServer {
	t.Helper()
	s := &apiServer{t: t, objects: map[string][]map[string]any{}, paths: map[string]http.HandlerFunc{}}
	for document := range strings.SplitSeq(ago(t, documents), "\n---\n") {
		var o map[string]any
		if err := yaml.Unmarshal([]byte(document), &o); err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		plural := strings.ToLower(o["kind"].(string)) + "s"
		s.objects[plural] = append(s.objects[plural], o)
	}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

// ago replaces each AGO(duration).
func ago(t *testing.T, text string) string {
	t.Helper()
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(text, "AGO(")
		out.WriteString(before)
		if !found {
			return out.String()
		}
		duration, after, _ := strings.Cut(rest, ")")
		d, err := time.ParseDuration(duration)
		if err != nil {
			t.Fatal(err)
		}
		out.WriteString(time.Now().Add(-d).UTC().Format(time.RFC3339))
		text = after
	}
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if handle := s.paths[r.URL.Path]; handle != nil {
		handle(w, r)
		return
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if parts[0] == "api" {
		parts = parts[2:]
	} else {
		parts = parts[3:]
	}
	namespace := ""
	if parts[0] == "namespaces" {
		namespace, parts = parts[1], parts[2:]
	}
	found := []map[string]any{}
	for _, o := range s.objects[parts[0]] {
		meta := o["metadata"].(map[string]any)
		switch {
		case namespace != "" && meta["namespace"] != namespace, !labelled(meta, r.URL.Query().Get("labelSelector")):
		case len(parts) > 1 && meta["name"] == parts[1]:
			answer(w, http.StatusOK, o)
			return
		default:
			found = append(found, o)
		}
	}
	_, known := s.objects[parts[0]]
	switch {
	case len(parts) > 1, !known && parts[0] == "volumesnapshots":
		refuse(http.StatusNotFound, metav1.StatusReasonNotFound, "not found")(w, r)
	default:
		answer(w, http.StatusOK, map[string]any{"kind": listKinds[parts[0]], "apiVersion": "v1", "metadata": map[string]any{}, "items": found})
	}
}

var listKinds = map[string]string{
	"persistentvolumeclaims": "PersistentVolumeClaimList", "persistentvolumes": "PersistentVolumeList", "pods": "PodList",
	"events": "EventList", "volumesnapshots": "VolumeSnapshotList",
}

func labelled(meta map[string]any, selector string) bool {
	labels, _ := meta["labels"].(map[string]any)
	for pair := range strings.SplitSeq(selector, ",") {
		if key, value, isPair := strings.Cut(pair, "="); isPair && labels[key] != value {
			return false
		}
	}
	return true
}

func answer(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body)
}

// refuse answers with a Status, as the API server does.
func refuse(code int32, reason metav1.StatusReason, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		answer(w, int(code), metav1.Status{
			TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
			Code: code, Reason: reason, Message: message,
		})
	}
}

var forbidden = refuse(http.StatusForbidden, metav1.StatusReasonForbidden, "you are not allowed")

// kubeconfig writes one for the server, with a namespace.
func (s *apiServer) kubeconfig(namespace string) string {
	s.t.Helper()
	path := filepath.Join(s.t.TempDir(), "config")
	text := `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: ` + s.URL + `}}]
contexts: [{name: x, context: {cluster: c, namespace: ` + namespace + `}}]
current-context: x
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// run runs the plugin in the namespace shop.
func (s *apiServer) run(args ...string) (code int, stdout, stderr string) {
	s.t.Helper()
	var out, err strings.Builder
	code = run(s.t.Context(), append(args, "--kubeconfig", s.kubeconfig("shop")), &out, &err)
	return code, out.String(), err.String()
}

// proxied is the path by which the driver's pod on a node is asked.
func proxied(node string) string {
	return "/api/v1/namespaces/katadirect/pods/csi-" + node + ":9809/proxy/volumes"
}
