package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/jsonpath"
)

// api is the API server asked by this process: what is looked at again and again would cost kubectl's start each time.
type api struct {
	host string
	http *http.Client
}

func newAPI(kubeconfig string) (*api, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.Timeout = 30 * time.Second // a server that is just restarted may let a connection hang
	client, err := rest.HTTPClientFor(config)
	return &api{config.Host, client}, err
}

// errNoSuchThing is the answer for what is not there.
var errNoSuchThing = errors.New("there is no such thing")

// get is the answer of a path.
func (a *api) get(ctx context.Context, path string) ([]byte, error) {
	return a.ask(ctx, http.MethodGet, path)
}

func (a *api) ask(ctx context.Context, method, path string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, a.host+path, nil)
	if err != nil {
		return nil, err
	}
	answer, err := a.http.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(answer.Body)
	switch {
	case answer.StatusCode == http.StatusNotFound:
		return nil, errNoSuchThing
	case answer.StatusCode != http.StatusOK && answer.StatusCode != http.StatusAccepted: // a deletion that is not done yet
		return nil, fmt.Errorf("%s: %s: %s", path, answer.Status, said)
	}
	return said, err
}

// kinds says where the API has the things of a kind; NS is a namespace.
var kinds = map[string]string{
	"pod":                   "/api/v1/namespaces/NS/pods/",
	"pvc":                   "/api/v1/namespaces/NS/persistentvolumeclaims/",
	"event":                 "/api/v1/namespaces/NS/events/",
	"statefulset":           "/apis/apps/v1/namespaces/NS/statefulsets/",
	"volumesnapshot":        "/apis/snapshot.storage.k8s.io/v1/namespaces/NS/volumesnapshots/",
	"pv":                    "/api/v1/persistentvolumes/",
	"node":                  "/api/v1/nodes/",
	"namespace":             "/api/v1/namespaces/",
	"capacity":              "/apis/storage.k8s.io/v1/namespaces/katadirect/csistoragecapacities/",
	"volumesnapshotcontent": "/apis/snapshot.storage.k8s.io/v1/volumesnapshotcontents/",
}

// field is what a thing ("pod/name"), or all of a kind ("pod"), has at a path as kubectl's -o=jsonpath knows it. What is
// not there is empty. It asks again for a while when there is no answer.
func (k *kube) field(thing, template string) string {
	k.t.Helper()
	got, err := k.tryField(thing, template)
	for deadline := time.Now().Add(patience / 6); err != nil && !errors.Is(err, errNoSuchThing) && time.Now().Before(deadline); {
		time.Sleep(200 * time.Millisecond)
		got, err = k.tryField(thing, template)
	}
	if err != nil && !errors.Is(err, errNoSuchThing) {
		k.t.Fatalf("%s of %s: %v", template, thing, err)
	}
	return got
}

func (k *kube) tryField(thing, template string) (string, error) {
	path, err := k.pathOf(thing)
	if err != nil {
		return "", err
	}
	raw, err := k.api.get(k.t.Context(), path)
	if err != nil {
		return "", err
	}
	return jsonField(raw, template)
}

// pathOf is where the API has a thing, or all of a kind.
func (k *kube) pathOf(thing string) (string, error) {
	kind, name, _ := strings.Cut(thing, "/")
	where, ok := kinds[kind]
	if !ok {
		return "", fmt.Errorf("no kind %q here", kind)
	}
	return strings.Replace(where, "NS", k.ns, 1) + name, nil
}

func jsonField(raw []byte, template string) (string, error) {
	var object any
	if err := json.Unmarshal(raw, &object); err != nil {
		return "", err
	}
	query := jsonpath.New("field").AllowMissingKeys(true)
	if err := query.Parse(template); err != nil {
		return "", err
	}
	var out strings.Builder
	err := query.Execute(&out, object)
	return out.String(), err
}

// eventsOf is what a template makes of the events of a thing ("pod/name"): of this one, not of others that have its name.
func (k *kube) eventsOf(thing, template string) string {
	k.t.Helper()
	uid := k.field(thing, "{.metadata.uid}")
	if uid == "" {
		return ""
	}
	return k.field("event/?fieldSelector="+url.QueryEscape("involvedObject.uid="+uid), template)
}

// events are reasons and messages of all events of the thing, a line each.
func (k *kube) events(thing string) string {
	k.t.Helper()
	return k.eventsOf(thing, `{range .items[*]}{.reason}: {.message}{"\n"}{end}`)
}

// handle is the driver's name for a claim's volume.
func (k *kube) handle(claim string) string {
	k.t.Helper()
	return k.field("pv/"+k.field("pvc/"+claim, "{.spec.volumeName}"), "{.spec.csi.volumeHandle}")
}
