package cluster

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestOnlyThePrivateRepositoryAsksForAPassword(t *testing.T) {
	open := refusePrivate(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	for path, want := range map[string]int{
		"/v2/": http.StatusTeapot, "/v2/pause/manifests/3.10.1": http.StatusTeapot,
		"/v2/authenticated-image-pulling/alpine/manifests/3.7": http.StatusUnauthorized,
	} {
		answer := httptest.NewRecorder()
		open.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
		if answer.Code != want {
			t.Errorf("%s: %d, want %d", path, answer.Code, want)
		}
	}
}
