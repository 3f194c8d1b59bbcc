package filesystem

import (
	"os"
	"testing"

	"github.com/katadirect/katadirect/internal/ownmounts"
)

func TestMain(m *testing.M) { os.Exit(ownmounts.Main(m)) }
