package server

import (
	"runtime/debug"
	"testing"
	"time"
)

// percent is the collector's setting.
func percent() int {
	now := debug.SetGCPercent(100)
	debug.SetGCPercent(now)
	return now
}

func TestTheHeapMayGrowWhileMuchOutputFlowsAndNoLonger(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(37))
	var b bulk
	b.saw(100)
	if got := percent(); got != 37 {
		t.Errorf("after a small read it is %d", got)
	}
	b.saw(bulkBytes)
	b.saw(bulkBytes)
	if got := percent(); got != bulkPercent {
		t.Errorf("after large reads it is %d", got)
	}
	for deadline := time.Now().Add(20 * bulkPause); percent() != 37; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it stays at %d", percent())
		}
	}
	b.end() // once more than begun
	b.saw(bulkBytes)
	b.end()
	if got := percent(); got != 37 {
		t.Errorf("after the second time it is %d", got)
	}
}
