package csi

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/katadirect/katadirect/pkg/csi/pool"
)

// No disk writes out what is left within a nanosecond.
func TestAFreezeOnTheHostThatTookTooLongIsNoneAndEndsAtOnce(t *testing.T) {
	h, _ := newModesHost(t)
	v := h.createIn("data", inMode("host"))
	must(t, v.stage())
	target := h.target("plain")
	must(t, v.publishFor("plain", target))
	holder, err := hostHolderOf(pool.Volume{ID: v.id, ImagePath: v.image()}, nil, false)
	must(t, err)
	if holder == nil || holder.mount == nil {
		t.Fatal("the host's mount is not found")
	}
	t.Cleanup(func() { holder.release(t.Context()) }) // also when the test ends early: an open mount keeps its device
	if err := holder.freeze(t.Context(), time.Nanosecond); !errors.Is(err, ErrGuest) {
		t.Errorf("got %v", err)
	}
	written := make(chan error, 1)
	go func() { written <- os.WriteFile(filepath.Join(target, "file"), []byte("text"), 0o600) }()
	select {
	case err := <-written:
		must(t, err)
	case <-time.After(20 * time.Second):
		t.Error("it is still frozen")
	}
	must(t, holder.thaw(t.Context())) // as capture does on every way out
	holder.release(t.Context())
	must(t, v.unpublish(target))
	h.nothingLeft()
}
