// Package trouble remembers what went wrong with each volume last, so that a person can be told in words: the calls for
// it that failed, when, how often, and whether the same call has succeeded since.
//
// It is memory only, and bounded whatever callers do. It judges nothing: which errors count is its caller's to say.
package trouble

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/katadirect/katadirect/pkg/csi/facts"
)

// Bounds on what is kept.
const (
	maxVolumes      = 1024
	maxPerVolume    = 6
	maxMessageBytes = 1 << 10
)

// Recent is how long after its last failure a call counts as still failing, if none has succeeded since. Whoever repeats
// calls, kubelet and the sidecars, waits five minutes at the most between two.
const Recent = 15 * time.Minute

// Log is the memory. The zero value is empty and ready.
type Log struct {
	mu      sync.Mutex
	volumes map[string][]facts.Trouble // by volume id, the latest first; guarded by mu
}

// Failed notes that a call for the volume failed. One that fails again in the same words is the same trouble.
func (l *Log) Failed(volume, call, code, message string, now time.Time) {
	message = clip(message)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.volumes == nil {
		l.volumes = map[string][]facts.Trouble{}
	}
	list, known := l.volumes[volume]
	if !known && len(l.volumes) >= maxVolumes {
		l.evict()
	}
	trouble := facts.Trouble{Call: call, Code: code, Message: message, First: now}
	same := func(t facts.Trouble) bool {
		return t.Call == call && t.Code == code && t.Message == message && t.Over == nil
	}
	if i := slices.IndexFunc(list, same); i >= 0 {
		trouble = list[i]
		list = slices.Delete(list, i, i+1)
	}
	trouble.Last = now
	trouble.Times++
	list = slices.Insert(list, 0, trouble)
	l.volumes[volume] = list[:min(len(list), maxPerVolume)]
}

// Succeeded notes that some calls for the volume are good again.
func (l *Log) Succeeded(volume string, now time.Time, calls ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, t := range l.volumes[volume] {
		if t.Over == nil && slices.Contains(calls, t.Call) {
			l.volumes[volume][i].Over = &now
		}
	}
}

// Forget is for a volume that is deleted.
func (l *Log) Forget(volume string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.volumes, volume)
}

// Of returns the volume's troubles, the latest first.
func (l *Log) Of(volume string) []facts.Trouble {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.volumes[volume])
}

// Failing returns since when which calls for the volume have been failing.
func (l *Log) Failing(volume string, now time.Time) map[string]time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	var failing map[string]time.Time
	for _, t := range l.volumes[volume] {
		if t.Over != nil || now.Sub(t.Last) > Recent {
			continue
		}
		if failing == nil {
			failing = map[string]time.Time{}
		}
		if first, found := failing[t.Call]; !found || t.First.Before(first) {
			failing[t.Call] = t.First
		}
	}
	return failing
}

// evict forgets the volume whose latest trouble is the oldest. It is called with mu held.
func (l *Log) evict() {
	oldest := ""
	for id, list := range l.volumes {
		if oldest == "" || list[0].Last.Before(l.volumes[oldest][0].Last) {
			oldest = id
		}
	}
	delete(l.volumes, oldest)
}

func clip(message string) string {
	return strings.ToValidUTF8(message[:min(len(message), maxMessageBytes)], "")
}
