package telemetry

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/katadirect/katadirect/pkg/csi/facts"
)

// Limits of the report: whoever can reach the endpoint can ask for it, and it asks guests.
const (
	reportTimeout  = 15 * time.Second
	maxReports     = 4 // pages at once
	maxReportQuery = 128
)

// Reporter says how the volumes are whose ids come after the one given, a page of them, within a bounded time.
type Reporter interface {
	Report(ctx context.Context, after string) (facts.Node, error)
}

// Reports answers facts.Path. Requests for the same page that come while it is made share it.
func Reports(from Reporter, log *slog.Logger) http.Handler {
	var pages singleflight.Group
	slots := make(chan struct{}, maxReports)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		after := r.URL.Query().Get(facts.QueryAfter)
		if len(after) > maxReportQuery {
			http.Error(w, facts.QueryAfter+" is no volume's id", http.StatusBadRequest)
			return
		}
		page, err, _ := pages.Do(after, func() (any, error) {
			select {
			case slots <- struct{}{}:
				defer func() { <-slots }()
			default:
				return nil, errBusy
			}
			// Not the request's context: others may wait for the same page.
			ctx, cancel := context.WithTimeout(context.Background(), reportTimeout)
			defer cancel()
			node, err := from.Report(ctx, after)
			if err != nil {
				log.WarnContext(ctx, "the volumes could not be reported", "error", err)
				return nil, err
			}
			return json.Marshal(node)
		})
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(page.([]byte)) // a client that has gone
	})
}

var errBusy = fmt.Errorf("%d pages are being made; ask again", maxReports)
