package server

import (
	"runtime/debug"
	"testing"
	"time"
)

// percent is the collector's setting. It can be read only by changing it,
// which must not fall together with the end.
func (b *bulk) percent() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := debug.SetGCPercent(100)
	debug.SetGCPercent(now)
	return now
}

func TestTheHeapMayGrowWhileMuchOutputFlowsAndNoLonger(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(37))
	b := bulk{pause: time.Hour} // however slow this test is
	b.saw(100)
	if got := b.percent(); got != 37 {
		t.Errorf("after a small read it is %d", got)
	}
	b.saw(bulkBytes)
	if got := b.percent(); got != bulkPercent {
		t.Errorf("after large reads it is %d", got)
	}
	b.pause = 0
	b.saw(bulkBytes)
	for deadline := time.Now().Add(20 * bulkPause); b.percent() != 37; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it stays at %d", b.percent())
		}
	}
	b.end() // once more than begun
	b.saw(bulkBytes)
	b.end()
	if got := b.percent(); got != 37 {
		t.Errorf("after the second time it is %d", got)
	}
}
