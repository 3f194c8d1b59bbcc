package calltimes

import (
	"sync"
	"testing"
	"time"
)

func TestCallsAreCountedInTheirBuckets(t *testing.T) {
	var times Times
	var calls sync.WaitGroup
	for range 100 {
		calls.Go(func() { times.Took("b", 3*time.Millisecond) })
	}
	calls.Wait()
	times.Took("a", time.Hour)
	all := times.All()
	if len(all) != 2 || all[0].Action != "a" || all[1].Action != "b" {
		t.Fatalf("%+v", all)
	}
	if b := all[1]; b.Count != 100 || b.SumMilliseconds != 300 || b.Buckets[1] != 0 || b.Buckets[2] != 100 || b.Buckets[9] != 100 {
		t.Errorf("%+v", b)
	}
	if a := all[0]; a.Count != 1 || a.Buckets[9] != 0 {
		t.Errorf("%+v", a)
	}
}
