package shimv2

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
)

// idleService serves nothing.
type idleService struct{}

func (idleService) Register(*ttrpc.Server)                    {}
func (idleService) Close(context.Context) error               { return nil }
func (idleService) Interceptor() ttrpc.UnaryServerInterceptor { return nil }

func TestADaemonThatNobodyKnowsOfEnds(t *testing.T) {
	for name, known := range map[string]bool{"unknown": false, "known": true} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			f, err := newFront(l, idleService{}, newClients())
			if err != nil {
				t.Fatal(err)
			}
			defer f.close(time.Second)
			if known {
				conn, err := net.Dial("unix", path)
				if err != nil {
					t.Fatal(err)
				}
				<-f.clients.met
				conn.Close() // containerd may go, and come again
			}
			ended, done := make(chan error, 1), make(chan struct{})
			go func() {
				ended <- waitForEnd(make(chan os.Signal), done, f, 50*time.Millisecond, slog.New(slog.DiscardHandler))
			}()
			limit := patience
			if known {
				limit = 500 * time.Millisecond
			}
			select {
			case err := <-ended:
				if known || err != nil {
					t.Errorf("it ended by itself with %v", err)
				}
			case <-time.After(limit):
				if !known {
					t.Error("it goes on")
				}
				close(done)
				<-ended
			}
		})
	}
}
