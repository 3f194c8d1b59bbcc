package agentclient

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// BucketsMilliseconds are the upper ends of the buckets of CallTimes; they are Kata's.
var BucketsMilliseconds = [...]float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512}

// CallTimes is how long the calls of one kind took.
type CallTimes struct {
	// Action is the request as Kata's metrics name it, for example grpc.CreateContainerRequest.
	Action string
	// Buckets count the calls that took at most so long; each includes those before it.
	Buckets         [len(BucketsMilliseconds)]uint64
	Count           uint64
	SumMilliseconds float64
}

// actions are the requests that are not named as their methods.
var actions = map[string]string{
	"GetGuestDetails": "GuestDetailsRequest", "GetVolumeStats": "VolumeStatsRequest", "WriteStdin": "WriteStreamRequest",
	"ReadStdout": "ReadStreamRequest", "ReadStderr": "ReadStreamRequest",
}

// callTimes keeps count. There are as many kinds as methods.
type callTimes struct {
	mu       sync.Mutex
	byAction map[string]*CallTimes
}

func (t *callTimes) took(method string, d time.Duration) {
	action, ok := actions[method]
	if !ok {
		action = method + "Request"
	}
	ms := float64(d) / float64(time.Millisecond)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byAction == nil {
		t.byAction = make(map[string]*CallTimes)
	}
	c := t.byAction[action]
	if c == nil {
		c = &CallTimes{Action: "grpc." + action}
		t.byAction[action] = c
	}
	c.Count++
	c.SumMilliseconds += ms
	for i, most := range BucketsMilliseconds {
		if ms <= most {
			c.Buckets[i]++
		}
	}
}

// CallTimes tells how long calls took, sorted by their names.
func (c *Client) CallTimes() []CallTimes {
	c.times.mu.Lock()
	defer c.times.mu.Unlock()
	var all []CallTimes
	for _, times := range c.times.byAction {
		all = append(all, *times)
	}
	slices.SortFunc(all, func(a, b CallTimes) int { return strings.Compare(a.Action, b.Action) })
	return all
}
