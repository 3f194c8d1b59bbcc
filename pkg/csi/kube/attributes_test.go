package kube

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

const storagePath = "/apis/storage.k8s.io/"

// vac is a VolumeAttributesClass as a server sends it.
func vac(driver string, parameters map[string]string) any {
	return map[string]any{
		"kind": "VolumeAttributesClass", "apiVersion": "storage.k8s.io/v1", "driverName": driver, "parameters": parameters,
	}
}

func TestAttributesClassesAreFoundOrTheFailureIsNamed(t *testing.T) {
	parameters := map[string]string{"katadirect.io/iops": "100"}
	for name, test := range map[string]struct {
		by    map[string]any
		kind  error
		words string
	}{
		"in v1":                              {map[string]any{storagePath + "v1/volumeattributesclasses/gold": vac(thisVol.Driver, parameters)}, nil, ""},
		"in v1beta1, before Kubernetes 1.34": {map[string]any{storagePath + "v1beta1/volumeattributesclasses/gold": vac(thisVol.Driver, parameters)}, nil, ""},
		"nowhere":                            {nil, ErrNotFound, "gold"},
		"another driver's":                   {map[string]any{storagePath + "v1/volumeattributesclasses/gold": vac("other", parameters)}, ErrNotFound, `"other"`},
		"not allowed":                        {map[string]any{storagePath + "v1/volumeattributesclasses/gold": http.StatusForbidden}, ErrUnavailable, "ClusterRole"},
		"server fails":                       {map[string]any{storagePath + "v1/volumeattributesclasses/gold": http.StatusInternalServerError}, ErrUnavailable, "gold"},
	} {
		t.Run(name, func(t *testing.T) {
			_, c := newAnswers(t, test.by)
			got, err := c.AttributesClass(t.Context(), "gold", thisVol.Driver)
			if !errors.Is(err, test.kind) || err != nil && !strings.Contains(err.Error(), test.words) {
				t.Fatalf("%v, want %v with %q", err, test.kind, test.words)
			}
			if err == nil && !reflect.DeepEqual(got, parameters) {
				t.Errorf("%v", got)
			}
		})
	}
	_, c := newAnswers(t, nil)
	for _, name := range []string{"", "..", "a/b"} {
		if _, err := c.AttributesClass(t.Context(), name, thisVol.Driver); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// volumesServer lists some PersistentVolumes, and sends changes to whoever watches.
func volumesServer(t *testing.T, listed []corev1.PersistentVolume, changes <-chan corev1.PersistentVolume) *Cluster {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		send := json.NewEncoder(w)
		if r.URL.Query().Get("sendInitialEvents") != "" { // as servers before Kubernetes 1.32 say it
			w.WriteHeader(http.StatusUnprocessableEntity)
			_ = send.Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
				Code: http.StatusUnprocessableEntity, Reason: metav1.StatusReasonInvalid})
			return
		}
		if r.URL.Query().Get("watch") == "" {
			list := corev1.PersistentVolumeList{TypeMeta: metav1.TypeMeta{Kind: "PersistentVolumeList", APIVersion: "v1"}, Items: listed}
			list.ResourceVersion = "1"
			_ = send.Encode(list)
			return
		}
		flush := w.(http.Flusher)
		flush.Flush()
		for {
			select {
			case v := <-changes:
				_ = send.Encode(map[string]any{"type": "MODIFIED", "object": v})
				flush.Flush()
			case <-r.Context().Done():
				return
			}
		}
	}))
	t.Cleanup(server.Close)
	c, err := newCluster(&rest.Config{Host: server.URL}, "node-1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestVolumesOfTheNodeWithAClassAreSeenAtTheStartAndWhenTheyChange(t *testing.T) {
	with := func(v *corev1.PersistentVolume, class, version string) corev1.PersistentVolume {
		v.Spec.VolumeAttributesClassName, v.ResourceVersion = &class, version
		return *v
	}
	changes := make(chan corev1.PersistentVolume)
	c := volumesServer(t, []corev1.PersistentVolume{
		with(volume("pv-1", "kd-1", thisVol.Driver), "gold", "1"),
		with(volume("pv-2", "kd-2", thisVol.Driver), "gold", "1"), // of another node
		with(volume("pv-3", "kd-1", "other"), "gold", "1"),
		*volume("pv-4", "kd-4", thisVol.Driver), // without a class
		with(volume("pv-5", "kd-5", thisVol.Driver), "", "1"),
		{TypeMeta: pvMeta, ObjectMeta: metav1.ObjectMeta{Name: "pv-6"}},
	}, changes)
	ctx, end := context.WithCancel(t.Context())
	seen, ended := make(chan AttributedVolume, 10), make(chan error, 1)
	go func() {
		ended <- c.WatchAttributes(ctx, thisVol.Driver, func(handle string) bool { return handle != "kd-2" }, func(v AttributedVolume) { seen <- v })
	}()
	next := func(want AttributedVolume) {
		t.Helper()
		want.Claim = corev1.ObjectReference{Namespace: "space", Name: "data", UID: "claim-1"}
		select {
		case got := <-seen:
			if got != want {
				t.Errorf("saw %+v, want %+v", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%+v was not seen", want)
		}
	}
	next(AttributedVolume{Name: "pv-1", Handle: "kd-1", Class: "gold"})
	changes <- with(volume("pv-2", "kd-2", thisVol.Driver), "silver", "2")
	changes <- with(volume("pv-4", "kd-4", thisVol.Driver), "silver", "3")
	next(AttributedVolume{Name: "pv-4", Handle: "kd-4", Class: "silver"})
	changes <- with(volume("pv-1", "kd-1", thisVol.Driver), "silver", "4")
	next(AttributedVolume{Name: "pv-1", Handle: "kd-1", Class: "silver"})
	end()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if len(seen) != 0 {
		t.Errorf("%d more were seen", len(seen))
	}
}

func TestWarningsBecomeEventsOfTheClaimOrOfTheVolumeWithoutOne(t *testing.T) {
	posted := make(chan corev1.Event, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		var e corev1.Event
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil || r.Method != http.MethodPost {
			t.Errorf("%s %s: %v", r.Method, r.URL, err)
		}
		if want := "/api/v1/namespaces/" + e.Namespace + "/events"; r.URL.Path != want {
			t.Errorf("posted to %s, want %s", r.URL.Path, want)
		}
		posted <- e
		w.WriteHeader(http.StatusCreated)
		e.TypeMeta = metav1.TypeMeta{Kind: "Event", APIVersion: "v1"}
		_ = json.NewEncoder(w).Encode(e)
	}))
	t.Cleanup(server.Close)
	c, err := newCluster(&rest.Config{Host: server.URL}, "node-1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	v := AttributedVolume{Name: "pv-1", Handle: "kd-1", Class: "gold", Claim: corev1.ObjectReference{Namespace: "space", Name: "data", UID: "u"}}
	for _, test := range []struct {
		v               AttributedVolume
		kind, name, nsp string
	}{{v, "PersistentVolumeClaim", "data", "space"}, {AttributedVolume{Name: "pv-1"}, "PersistentVolume", "pv-1", "default"}} {
		if err := c.Warn(t.Context(), test.v, "Reason", "what is wrong"); err != nil {
			t.Fatal(err)
		}
		e := <-posted
		if e.InvolvedObject.Kind != test.kind || e.InvolvedObject.Name != test.name || e.Namespace != test.nsp ||
			e.Type != "Warning" || e.Reason != "Reason" || e.Message != "what is wrong" || e.Source.Host != "node-1" {
			t.Errorf("%+v", e)
		}
	}
	_, c = newAnswers(t, map[string]any{"/namespaces/space/events": http.StatusForbidden})
	if err := c.Warn(t.Context(), v, "Reason", "what"); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "ClusterRole") {
		t.Errorf("not allowed: %v", err)
	}
}
