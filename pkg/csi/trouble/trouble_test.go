package trouble

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

var start = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

func at(minutes int) time.Time { return start.Add(time.Duration(minutes) * time.Minute) }

func TestTheSameFailureIsCountedAndTheLatestComesFirst(t *testing.T) {
	var l Log
	l.Failed("v", "NodeStageVolume", "Unavailable", "the disk is slow", at(0))
	l.Failed("v", "NodeExpandVolume", "OutOfRange", "no room", at(1))
	l.Failed("v", "NodeStageVolume", "Unavailable", "the disk is slow", at(2))
	got := l.Of("v")
	if len(got) != 2 || got[0].Call != "NodeStageVolume" || got[0].Times != 2 || got[0].First != at(0) || got[0].Last != at(2) || got[1].Times != 1 {
		t.Errorf("the troubles are %+v", got)
	}
	if len(l.Of("other")) != 0 {
		t.Error("another volume has troubles")
	}
}

func TestASuccessEndsTheTroublesOfItsCall(t *testing.T) {
	var l Log
	l.Failed("v", "NodeStageVolume", "Unavailable", "slow", at(0))
	l.Failed("v", "NodeExpandVolume", "OutOfRange", "no room", at(1))
	l.Failed("v", "NodeExpandVolume", "Unavailable", "the guest is silent", at(2))
	if failing := l.Failing("v", at(3)); len(failing) != 2 || failing["NodeExpandVolume"] != at(1) {
		t.Errorf("failing are %v", failing)
	}
	l.Succeeded("v", at(4), "NodeExpandVolume")
	for _, trouble := range l.Of("v") {
		if over := trouble.Over != nil; over != (trouble.Call == "NodeExpandVolume") {
			t.Errorf("%+v", trouble)
		}
	}
	l.Failed("v", "NodeExpandVolume", "OutOfRange", "no room", at(5))
	if got := l.Of("v")[0]; got.Times != 1 || got.First != at(5) || got.Over != nil {
		t.Errorf("a failure after a success is %+v, not a new trouble", got)
	}
}

func TestACallThatNobodyRepeatsStopsFailing(t *testing.T) {
	var l Log
	l.Failed("v", "NodeStageVolume", "Unavailable", "slow", at(0))
	if len(l.Failing("v", at(14))) != 1 || len(l.Failing("v", at(16))) != 0 {
		t.Errorf("after 14 minutes %v, after 16 %v", l.Failing("v", at(14)), l.Failing("v", at(16)))
	}
	if len(l.Of("v")) != 1 {
		t.Error("it is forgotten")
	}
}

func TestNothingGrowsWithoutBound(t *testing.T) {
	var l Log
	for i := range 3 * maxVolumes {
		l.Failed(fmt.Sprint("v", i), "NodeStageVolume", "Unavailable", "slow", at(i))
	}
	for i := range 100 {
		l.Failed("v", "NodeStageVolume", "Unavailable", fmt.Sprint(i, strings.Repeat("ä", maxMessageBytes)), at(10000+i))
	}
	if len(l.volumes) != maxVolumes || len(l.Of("v")) != maxPerVolume || len(l.Of("v0")) != 0 || len(l.Of(fmt.Sprint("v", 3*maxVolumes-1))) != 1 {
		t.Errorf("%d volumes, %d troubles", len(l.volumes), len(l.Of("v")))
	}
	if message := l.Of("v")[0].Message; len(message) > maxMessageBytes || strings.ContainsRune(message, '\uFFFD') || !strings.HasPrefix(message, "99") {
		t.Errorf("a message of %d bytes", len(message))
	}
	l.Forget("v")
	if len(l.Of("v")) != 0 {
		t.Error("not forgotten")
	}
}
