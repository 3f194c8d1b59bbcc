package qemu_test

import (
	"testing"
	"time"

	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

func TestZZSmoke(t *testing.T) {
	t0 := time.Now()
	g := sharedGuest(t)
	t.Log("boot", time.Since(t0))
	for range 3 {
		path := sparseFile(t, 64*mib)
		t0 = time.Now()
		a := g.plug(vm.Disk{ID: "v1", Path: path})
		t1 := time.Now()
		d := g.disk("v1", true)
		t.Log("plug", t1.Sub(t0), "seen", time.Since(t0), a, d)
		t0 = time.Now()
		if err := g.m.ResizeDisk(t.Context(), "v1", 128*mib); err != nil {
			t.Fatal(err)
		}
		t.Log("resize", time.Since(t0))
		t.Log(g.disk("v1", true))
		t0 = time.Now()
		g.unplug("v1")
		t.Log("unplug", time.Since(t0))
		g.disk("v1", false)
		t0 = time.Now()
		g.hangUp()
		if err := g.dial(); err != nil {
			t.Fatal(err)
		}
		t.Log("redial", time.Since(t0))
	}
}
