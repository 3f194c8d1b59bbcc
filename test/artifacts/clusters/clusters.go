// Package clusters opens clusters for tests.
package clusters

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/katadirect/katadirect/internal/cluster"
	"github.com/katadirect/katadirect/test/artifacts"
)

const (
	openTimeout  = 5 * time.Minute
	closeTimeout = 3 * time.Minute
)

// Open opens a cluster of the programs and the guest of this run, and fails the test if anything outlives it. Of a test
// that has failed it shows the last words of those named.
func Open(t *testing.T, options cluster.Options, speakers ...string) *cluster.Cluster {
	t.Helper()
	options.BinDir, options.Guest = artifacts.BinDir, artifacts.Image
	ctx, cancel := context.WithTimeout(t.Context(), openTimeout)
	defer cancel()
	c, err := cluster.Open(ctx, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.Tails(speakers...))
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), closeTimeout)
		defer cancel()
		left, err := c.Close(ctx)
		if len(left) > 0 {
			err = errors.Join(err, fmt.Errorf("left over:\n%s", strings.Join(left, "\n")))
		}
		if err != nil {
			t.Error(err)
		}
	})
	return c
}
