package server

import (
	"errors"
	"testing"
)

func TestContainersRemovedDuringACallShareTheNext(t *testing.T) {
	var f forgets
	begun, goOn := make(chan struct{}), make(chan struct{})
	calls, ended := 0, make(chan struct{})
	forget := func() error {
		calls++
		begun <- struct{}{}
		<-goOn
		return errors.New("a failed call does not stop the next")
	}
	go func() { f.call(forget); close(ended) }()
	<-begun
	for range 100 {
		f.call(forget) // returns at once
	}
	goOn <- struct{}{}
	<-begun // once more, for all that came meanwhile
	goOn <- struct{}{}
	<-ended
	if calls != 2 {
		t.Errorf("%d calls, want 2", calls)
	}
	go func() { <-begun; goOn <- struct{}{} }()
	if f.call(forget); calls != 3 {
		t.Errorf("%d calls after one more container, want 3", calls)
	}
}
