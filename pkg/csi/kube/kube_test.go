package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/katadirect/katadirect/pkg/csi/mode"
)

// answers stands in for an API server that fails on request. That the questions are the right ones, a real one says in
// test/e2e.
type answers struct {
	mu     sync.Mutex
	by     map[string]any // by path: an object, or the number of a status
	asked  map[string]int
	server *httptest.Server
}

func newAnswers(t *testing.T, by map[string]any) (*answers, *Cluster) {
	t.Helper()
	a := &answers{by: by, asked: map[string]int{}}
	a.server = httptest.NewServer(a)
	t.Cleanup(a.server.Close)
	c, err := newCluster(&rest.Config{Host: a.server.URL}, "node-1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return a, c
}

func (a *answers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/api/v1"), "/apis/node.k8s.io/v1")
	if r.URL.Query().Get("continue") != "" {
		key += "?" + r.URL.Query().Get("continue")
	}
	a.asked[key]++
	answer, known := a.by[key]
	if !known {
		answer = http.StatusNotFound
	}
	w.Header().Set("Content-Type", "application/json")
	if code, failed := answer.(int); failed {
		w.WriteHeader(code)
		answer = &metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
			Code: int32(code), Reason: reasons[code], Message: fmt.Sprintf("answer %d", code)}
	}
	_ = json.NewEncoder(w).Encode(answer)
}

var reasons = map[int]metav1.StatusReason{
	http.StatusNotFound: metav1.StatusReasonNotFound, http.StatusForbidden: metav1.StatusReasonForbidden,
	http.StatusUnauthorized: metav1.StatusReasonUnauthorized, http.StatusInternalServerError: metav1.StatusReasonInternalError,
}

var (
	podMeta  = metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}
	pvMeta   = metav1.TypeMeta{Kind: "PersistentVolume", APIVersion: "v1"}
	pvcMeta  = metav1.TypeMeta{Kind: "PersistentVolumeClaim", APIVersion: "v1"}
	rcMeta   = metav1.TypeMeta{Kind: "RuntimeClass", APIVersion: "node.k8s.io/v1"}
	thisPod  = PodName{Namespace: "space", Name: "db-0", UID: "uid-1"}
	thisVol  = VolumeID{Driver: "csi.katadirect.io", Handle: "kd-1"}
	podPath  = "/namespaces/space/pods/db-0"
	pvcPath  = "/namespaces/space/persistentvolumeclaims/data"
	kataName = "kata"
)

func pod(uid types.UID, class *string) *corev1.Pod {
	return &corev1.Pod{TypeMeta: podMeta, ObjectMeta: metav1.ObjectMeta{Namespace: "space", Name: "db-0", UID: uid},
		Spec: corev1.PodSpec{RuntimeClassName: class, Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
}

func withPolicy(p *corev1.Pod) *corev1.Pod {
	policy, group := corev1.FSGroupChangeOnRootMismatch, int64(2000)
	p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &group, FSGroupChangePolicy: &policy}
	return p
}

func volume(name, handle, driver string) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{TypeMeta: pvMeta, ObjectMeta: metav1.ObjectMeta{Name: name}}
	v.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: handle}
	v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "space", Name: "data", UID: "claim-1"}
	return v
}

func claim(annotations map[string]string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{TypeMeta: pvcMeta,
		ObjectMeta: metav1.ObjectMeta{Namespace: "space", Name: "data", UID: "claim-1", Annotations: annotations}}
}

func class(handler string, annotations map[string]string) *nodev1.RuntimeClass {
	return &nodev1.RuntimeClass{TypeMeta: rcMeta, ObjectMeta: metav1.ObjectMeta{Name: kataName, Annotations: annotations}, Handler: handler}
}

func TestPodsAreFoundOrTheFailureIsNamed(t *testing.T) {
	for name, test := range map[string]struct {
		answer any
		want   Pod
		kind   error
		words  string
	}{
		"with a class":      {pod("uid-1", &kataName), Pod{RuntimeClass: "kata"}, nil, ""},
		"without one":       {pod("uid-1", nil), Pod{}, nil, ""},
		"with a policy":     {withPolicy(pod("uid-1", nil)), Pod{FSGroupChangePolicy: "OnRootMismatch"}, nil, ""},
		"its successor":     {pod("uid-2", &kataName), Pod{}, ErrNotFound, "uid-2"},
		"gone":              {http.StatusNotFound, Pod{}, ErrNotFound, "space/db-0"},
		"not allowed":       {http.StatusForbidden, Pod{}, ErrUnavailable, "ClusterRole"},
		"account not known": {http.StatusUnauthorized, Pod{}, ErrUnavailable, "ClusterRole"},
		"server fails":      {http.StatusInternalServerError, Pod{}, ErrUnavailable, "--kubernetes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, c := newAnswers(t, map[string]any{podPath: test.answer})
			got, err := c.Pod(t.Context(), thisPod)
			check(t, got, err, test.want, test.kind, test.words)
		})
	}
}

func TestAServerThatIsAwayIsNotAnAnswer(t *testing.T) {
	a, c := newAnswers(t, nil)
	a.server.Close()
	_, err := c.Pod(t.Context(), thisPod)
	check(t, "", err, "", ErrUnavailable, "--kubernetes")
	_, err = c.Runtime(t.Context(), kataName)
	check(t, "", err, "", ErrUnavailable, kataName)
	_, err = c.ModeOfClaim(t.Context(), thisVol, "pv-1")
	check(t, "", err, "", ErrUnavailable, "kd-1")
}

func TestRuntimeClassesSayWhatTheyAre(t *testing.T) {
	for name, test := range map[string]struct {
		answer any
		want   mode.Runtime
		kind   error
		words  string
	}{
		"a handler":     {class("kata-qemu", nil), mode.Runtime{Class: kataName, Handler: "kata-qemu"}, nil, ""},
		"an annotation": {class("x", map[string]string{mode.Key: "direct"}), mode.Runtime{Class: kataName, Handler: "x", Says: mode.Direct}, nil, ""},
		"another one":   {class("x", map[string]string{mode.Key: "yes"}), mode.Runtime{}, mode.ErrUnknown, kataName},
		"an empty one":  {class("x", map[string]string{mode.Key: ""}), mode.Runtime{}, mode.ErrUnknown, kataName},
		"gone":          {http.StatusNotFound, mode.Runtime{}, ErrNotFound, kataName},
	} {
		t.Run(name, func(t *testing.T) {
			_, c := newAnswers(t, map[string]any{"/runtimeclasses/kata": test.answer})
			got, err := c.Runtime(t.Context(), kataName)
			check(t, got, err, test.want, test.kind, test.words)
		})
	}
}

func TestTheClaimIsTheOneThatTheVolumeIsBoundTo(t *testing.T) {
	direct := claim(map[string]string{mode.Key: "direct"})
	other := claim(nil)
	other.UID = "claim-2"
	unbound := volume("pv-1", "kd-1", thisVol.Driver)
	unbound.Spec.ClaimRef = nil
	list := func(next string, items ...corev1.PersistentVolume) *corev1.PersistentVolumeList {
		return &corev1.PersistentVolumeList{TypeMeta: metav1.TypeMeta{Kind: "PersistentVolumeList", APIVersion: "v1"},
			ListMeta: metav1.ListMeta{Continue: next}, Items: items}
	}
	for name, test := range map[string]struct {
		answers map[string]any
		names   []string
		want    mode.Mode
		kind    error
		words   string
	}{
		"by its name":        {map[string]any{"/persistentvolumes/pv-1": volume("pv-1", "kd-1", thisVol.Driver), pvcPath: direct}, []string{"pv-1"}, mode.Direct, nil, ""},
		"by its second name": {map[string]any{"/persistentvolumes/pv-1": volume("pv-1", "kd-1", thisVol.Driver), pvcPath: direct}, []string{"pv-0", "pv-1"}, mode.Direct, nil, ""},
		"saying nothing":     {map[string]any{"/persistentvolumes/pv-1": volume("pv-1", "kd-1", thisVol.Driver), pvcPath: claim(nil)}, []string{"pv-1"}, "", nil, ""},
		"saying nonsense":    {map[string]any{"/persistentvolumes/pv-1": volume("pv-1", "kd-1", thisVol.Driver), pvcPath: claim(map[string]string{mode.Key: "fast"})}, []string{"pv-1"}, "", mode.ErrUnknown, "space/data"},
		"on a later page": {map[string]any{
			"/persistentvolumes":        list("p2", *volume("a", "kd-1", "other.io"), *volume("b", "kd-2", thisVol.Driver)),
			"/persistentvolumes?p2":     list("", *volume("c", "kd-1", thisVol.Driver)),
			"/persistentvolumes/foo%2f": http.StatusInternalServerError, pvcPath: direct,
		}, []string{"foo/", ""}, mode.Direct, nil, ""},
		"of another driver":      {map[string]any{"/persistentvolumes/pv-1": volume("pv-1", "kd-1", "other.io"), "/persistentvolumes": list("")}, []string{"pv-1"}, "", ErrNotFound, "kd-1"},
		"bound to nothing":       {map[string]any{"/persistentvolumes/pv-1": unbound}, []string{"pv-1"}, "", ErrNotFound, "pv-1"},
		"of a claim made anew":   {map[string]any{"/persistentvolumes/pv-1": volume("pv-1", "kd-1", thisVol.Driver), pvcPath: other}, []string{"pv-1"}, "", ErrNotFound, "claim-2"},
		"of a claim that is not": {map[string]any{"/persistentvolumes/pv-1": volume("pv-1", "kd-1", thisVol.Driver)}, []string{"pv-1"}, "", ErrNotFound, "space/data"},
		"volumes not allowed":    {map[string]any{"/persistentvolumes/pv-1": http.StatusForbidden}, []string{"pv-1"}, "", ErrUnavailable, "ClusterRole"},
		"claims not allowed":     {map[string]any{"/persistentvolumes/pv-1": volume("pv-1", "kd-1", thisVol.Driver), pvcPath: http.StatusForbidden}, []string{"pv-1"}, "", ErrUnavailable, "ClusterRole"},
	} {
		t.Run(name, func(t *testing.T) {
			_, c := newAnswers(t, test.answers)
			got, err := c.ModeOfClaim(t.Context(), thisVol, test.names...)
			check(t, got, err, test.want, test.kind, test.words)
		})
	}
}

// TestWhatIsKnownIsNotAskedForAgain also finds that a predecessor's memory does not answer for its successor.
func TestWhatIsKnownIsNotAskedForAgain(t *testing.T) {
	a, c := newAnswers(t, map[string]any{
		podPath: pod("uid-1", &kataName), "/runtimeclasses/kata": class("kata", map[string]string{mode.Key: "host"}),
	})
	old := withPolicy(pod("uid-1", &kataName))
	old.Annotations = map[string]string{"large": "thing"}
	remember(t, c.pods, old)
	remember(t, c.classes, class("kata", map[string]string{mode.Key: "host", "large": "thing"}))

	got, err := c.Pod(t.Context(), thisPod)
	check(t, got, err, Pod{RuntimeClass: "kata", FSGroupChangePolicy: "OnRootMismatch"}, nil, "")
	runtime, err := c.Runtime(t.Context(), kataName)
	check(t, runtime, err, mode.Runtime{Class: "kata", Handler: "kata", Says: mode.Host}, nil, "")
	if len(a.asked) > 0 {
		t.Errorf("asked for %v", a.asked)
	}
	a.by[podPath] = pod("uid-2", nil)
	got, err = c.Pod(t.Context(), PodName{Namespace: "space", Name: "db-0", UID: "uid-2"})
	check(t, got, err, Pod{}, nil, "")
	if a.asked[podPath] != 1 {
		t.Errorf("the successor was asked for %d times", a.asked[podPath])
	}
}

func remember(t *testing.T, w watched, object runtime.Object) {
	t.Helper()
	if err := w.GetStore().Add(object); err != nil {
		t.Fatal(err)
	}
}

func trimOthers(object any) (any, error) {
	return trimVolume(object, thisVol.Driver, func(string) bool { return true }), nil
}

func TestMemoryHoldsNoMoreThanIsLookedUp(t *testing.T) {
	for _, test := range []struct {
		trim func(any) (any, error)
		give runtime.Object
		want string
	}{
		{trimPod, func() runtime.Object {
			p := pod("uid-1", &kataName)
			p.Annotations, p.Labels = map[string]string{"a": "b"}, map[string]string{"a": "b"}
			p.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "m"}}
			return p
		}(), `{"metadata":{"name":"db-0","namespace":"space","uid":"uid-1"},"spec":{"runtimeClassName":"kata"`},
		{trimPod, withPolicy(pod("uid-1", nil)),
			`{"metadata":{"name":"db-0","namespace":"space","uid":"uid-1"},"spec":{"securityContext":{"fsGroupChangePolicy":"OnRootMismatch"}`},
		{trimClass, class("h", map[string]string{"a": "b", mode.Key: "host"}),
			`{"metadata":{"name":"kata","annotations":{"katadirect.io/mode":"host"}},"handler":"h"}`},
		{trimOthers, volume("pv-1", "kd-1", "other"), `{"metadata":{"name":"pv-1"}}`},
		{trimOthers, volume("pv-2", "kd-2", thisVol.Driver), `{"metadata":{"name":"pv-2"}}`}, // without a class
	} {
		got, err := test.trim(test.give)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		short := strings.NewReplacer(`"creationTimestamp":null,`, "", `,"creationTimestamp":null`, "", `"containers":null,`, "").Replace(string(text))
		if !strings.HasPrefix(short, test.want) {
			t.Errorf("kept %s, want %s", short, test.want)
		}
	}
}

func TestSources(t *testing.T) {
	for source, want := range map[string]error{"": nil, Off: nil, "on": ErrSource, "kubeconfig": ErrSource} {
		c, err := Open(source, "node-1", nil)
		if c != nil || !errors.Is(err, want) {
			t.Errorf("%q: got %v, %v", source, c, err)
		}
	}
	if _, err := Open("/nowhere/kubeconfig", "node-1", nil); err == nil || !strings.Contains(err.Error(), "/nowhere/kubeconfig") {
		t.Errorf("a kubeconfig that is not there: %v", err)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	_, c := newAnswers(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { c.Run(ctx); close(ended) }()
	cancel()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Fatal("Run goes on")
	}
}

func check[T comparable](t *testing.T, got T, err error, want T, kind error, words string) {
	t.Helper()
	switch {
	case kind == nil && err != nil, kind != nil && !errors.Is(err, kind):
		t.Errorf("got the error %v, want %v", err, kind)
	case kind == nil && got != want:
		t.Errorf("got %v, want %v", got, want)
	case kind != nil && !strings.Contains(err.Error(), words):
		t.Errorf("the error does not say %q: %v", words, err)
	}
}
