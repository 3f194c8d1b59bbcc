package storage

import (
	"log/slog"
	"os"
	"testing"

	"github.com/katadirect/katadirect/internal/ownmounts"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	os.Exit(ownmounts.Main(m))
}
