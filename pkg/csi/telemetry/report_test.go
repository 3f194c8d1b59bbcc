package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/katadirect/katadirect/pkg/csi/facts"
)

type reporter func(ctx context.Context, after string) (facts.Node, error)

func (r reporter) Report(ctx context.Context, after string) (facts.Node, error) { return r(ctx, after) }

func TestAReportIsAPageOfVolumes(t *testing.T) {
	server := httptest.NewServer(Reports(reporter(func(ctx context.Context, after string) (facts.Node, error) {
		if _, bounded := ctx.Deadline(); !bounded {
			t.Error("a report may take for ever")
		}
		return facts.Node{Node: "n", Next: after + "+"}, nil
	}), quiet))
	defer server.Close()
	code, body := get(t, server.URL+facts.Path+"?after=kd-1")
	var n facts.Node
	if err := json.Unmarshal([]byte(body), &n); err != nil || code != http.StatusOK || n.Next != "kd-1+" || n.Node != "n" {
		t.Errorf("%d %s: %v", code, body, err)
	}
	if code, body := get(t, server.URL+facts.Path+"?after="+strings.Repeat("x", 1000)); code != http.StatusBadRequest {
		t.Errorf("a page after nothing that can be: %d %s", code, body)
	}
}

func TestAReportThatCannotBeMadeSaysWhy(t *testing.T) {
	server := httptest.NewServer(Reports(reporter(func(context.Context, string) (facts.Node, error) {
		return facts.Node{}, errors.New("the records are on fire")
	}), quiet))
	defer server.Close()
	if code, body := get(t, server.URL); code != http.StatusServiceUnavailable || !strings.Contains(body, "the records are on fire") {
		t.Errorf("%d %s", code, body)
	}
}

// A flood of requests must not become a flood of questions to guests.
func TestReportsAtOnceAreSharedAndFew(t *testing.T) {
	var made atomic.Int32
	hold := make(chan struct{})
	server := httptest.NewServer(Reports(reporter(func(context.Context, string) (facts.Node, error) {
		made.Add(1)
		<-hold
		return facts.Node{}, nil
	}), quiet))
	defer server.Close()
	answered := make(chan int, 100)
	ask := func(query string) {
		go func() {
			code, _ := get(t, server.URL+query)
			answered <- code
		}()
	}
	for _, page := range []string{"a", "b", "c", "d"} {
		for range 5 {
			ask("?after=" + page)
		}
	}
	for deadline := time.Now().Add(10 * time.Second); made.Load() < maxReports; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("only %d pages are made", made.Load())
		}
	}
	ask("?after=one-more")
	if code := <-answered; code != http.StatusServiceUnavailable {
		t.Errorf("a page more is answered with %d", code)
	}
	close(hold)
	for range 4 * 5 {
		if code := <-answered; code != http.StatusOK {
			t.Errorf("answered with %d", code)
		}
	}
}
