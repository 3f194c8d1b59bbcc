package sandbox

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// maxStarved is how many deadlines in a row a machine may miss for want of processor time.
const maxStarved = 10

// patience tells a guest that is dead from one that cannot answer because the host does not let it run: because it
// stands still until the host has space again, or because others have the processors. To kill that one would end a
// database for a busy minute of its node.
type patience struct {
	sandbox *Sandbox
	asked   time.Time
	turns   map[string]turns // of the machine's threads, when it was asked
	silent  bool             // it has not answered the last time
	starved int              // how many times in a row it had no chance to
}

// Ask notes how things are before the guest is asked.
func (p *patience) Ask() {
	if !p.silent {
		p.starved = 0
	}
	p.silent = false
	p.asked, p.turns = time.Now(), turnsOf(p.sandbox.machine.PID())
}

// Wait reports whether the guest had no chance to answer.
func (p *patience) Wait() bool {
	if p.sandbox.stoodStill(p.asked) {
		return true
	}
	p.silent = true
	silent := time.Since(p.asked)
	longest := longestWait(p.turns, turnsOf(p.sandbox.machine.PID()), silent)
	p.starved++
	if longest < silent/2 || p.starved > maxStarved {
		return false
	}
	p.sandbox.log.Warn("the guest has not answered, for want of processor time on the host; it is given more time",
		"silent", silent.Round(time.Millisecond), "waitedForProcessor", longest.Round(time.Millisecond))
	return true
}

// turns is what the scheduler has given a thread.
type turns struct {
	ran    time.Duration // since it began
	waited time.Duration // for its turns, since it began; the kernel adds to it when a turn comes
	ready  bool          // it runs, or waits for its turn
}

// turnsOf returns those of each thread of a process (Documentation/scheduler/sched-stats.rst). They are none where the
// kernel does not count them, and then nothing is excused.
func turnsOf(pid int) map[string]turns {
	tasks := fmt.Sprintf("/proc/%d/task", pid)
	threads, _ := os.ReadDir(tasks)
	all := make(map[string]turns, len(threads))
	for _, thread := range threads {
		if t, err := readTurns(filepath.Join(tasks, thread.Name())); err == nil {
			all[thread.Name()] = t
		}
	}
	return all
}

func readTurns(task string) (t turns, err error) {
	counted, err := os.ReadFile(filepath.Join(task, "schedstat"))
	if err != nil {
		return t, err
	}
	if _, err := fmt.Sscan(string(counted), (*int64)(&t.ran), (*int64)(&t.waited)); err != nil {
		return t, err
	}
	stat, err := os.ReadFile(filepath.Join(task, "stat"))
	name := bytes.LastIndexByte(stat, ')') // which may have any character in it
	t.ready = bytes.HasPrefix(stat[name+1:], []byte(" R"))
	return t, err
}

// longestWait is that of the thread that has waited most between the two, so long apart. Of a machine it is one of its
// processors that waits or, all being equal, the loop that moves its devices' data; without either nothing is answered.
func longestWait(before, after map[string]turns, apart time.Duration) time.Duration {
	var longest time.Duration
	for thread, now := range after {
		was, known := before[thread]
		if !known {
			continue
		}
		waited := now.waited - was.waited
		if was.ready && now.ready { // its turn has not come yet
			waited = max(waited, apart-(now.ran-was.ran))
		}
		longest = max(longest, waited)
	}
	return longest
}
