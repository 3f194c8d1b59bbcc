package csi

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

// shim is a sandbox that has volumes: it holds a lease, claims, and serves the management socket as a test tells it.
// The test's handler stands in for the guest, to answer what real ones will not answer on request.
type shim struct {
	h      *host
	id     string
	lease  *os.File
	server *http.Server

	mu      sync.Mutex
	resizes []directvolume.ResizeRequest // guarded by mu
}

// runShim starts a sandbox. A nil answer to a path means that every request to it succeeds with nothing.
func (h *host) runShim(id string, answers map[string]http.HandlerFunc) *shim {
	h.t.Helper()
	s := &shim{h: h, id: id}
	lease, err := h.sandboxes().AcquireLease(id)
	must(h.t, err)
	s.lease = lease
	mux := http.NewServeMux()
	mux.HandleFunc(directvolume.PathResize, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var request directvolume.ResizeRequest
		if err := json.Unmarshal(body, &request); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		s.mu.Lock()
		s.resizes = append(s.resizes, request)
		s.mu.Unlock()
		if answer := answers[directvolume.PathResize]; answer != nil {
			answer(w, r)
		}
	})
	for path, answer := range answers {
		if path != directvolume.PathResize && answer != nil {
			mux.HandleFunc(path, answer)
		}
	}
	listener, err := net.Listen("unix", h.sandboxes().SocketPath(id))
	must(h.t, err)
	s.server = &http.Server{Handler: mux}
	go s.server.Serve(listener)
	h.t.Cleanup(s.die)
	return s
}

// die ends the sandbox as a kill does: lease and socket go, the claim stays.
func (s *shim) die() {
	s.server.Close()
	s.lease.Close()
}

func (s *shim) claim(targetPath string) {
	s.h.t.Helper()
	_, err := s.h.store().Claim(s.h.t.Context(), targetPath, s.id)
	must(s.h.t, err)
}

func (s *shim) release(targetPath string) {
	s.h.t.Helper()
	must(s.h.t, s.h.store().Release(s.h.t.Context(), targetPath, s.id))
}

func (s *shim) asked() []directvolume.ResizeRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]directvolume.ResizeRequest(nil), s.resizes...)
}

func answerWith(code int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		fmt.Fprint(w, text)
	}
}

// answerNever holds the request until the test is over or the caller gives up.
func answerNever(t *testing.T) http.HandlerFunc {
	over := make(chan struct{})
	t.Cleanup(sync.OnceFunc(func() { close(over) }))
	return func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-over:
		case <-r.Context().Done():
		}
	}
}
