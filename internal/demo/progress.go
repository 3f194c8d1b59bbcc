package demo

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// progress shows the steps as they happen: a moving line on a terminal, whole lines anywhere else.
type progress struct {
	out      io.Writer
	terminal bool

	mu   sync.Mutex // over out, while a line moves
	stop chan struct{}
	wg   sync.WaitGroup
}

func newProgress(out io.Writer) *progress {
	p := &progress{out: out}
	if f, ok := out.(*os.File); ok {
		_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
		p.terminal = err == nil && os.Getenv("TERM") != "dumb"
	}
	return p
}

const redraw = 100 * time.Millisecond

// begin shows that a step has begun.
func (p *progress) begin(name string) {
	if !p.terminal {
		fmt.Fprintf(p.out, "%s ...\n", name)
		return
	}
	p.stop = make(chan struct{})
	p.wg.Add(1)
	go p.move(name, time.Now(), p.stop)
}

func (p *progress) move(name string, start time.Time, stop <-chan struct{}) {
	defer p.wg.Done()
	tick := time.NewTicker(redraw)
	defer tick.Stop()
	for {
		p.mu.Lock()
		fmt.Fprintf(p.out, "\r\033[K  %s … %.1f s", name, time.Since(start).Seconds())
		p.mu.Unlock()
		select {
		case <-stop:
			return
		case <-tick.C:
		}
	}
}

// end shows how the step ended.
func (p *progress) end(name string, took time.Duration, err error) {
	if p.terminal {
		close(p.stop)
		p.wg.Wait()
		mark := "✓"
		if err != nil {
			mark = "✗"
		}
		fmt.Fprintf(p.out, "\r\033[K%s %s  %.2f s\n", mark, name, took.Seconds())
		return
	}
	result := "done"
	if err != nil {
		result = "failed"
	}
	fmt.Fprintf(p.out, "%s: %s in %.2f s\n", name, result, took.Seconds())
}

// say shows something seen during a step, each line of it indented.
func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.terminal {
		fmt.Fprint(p.out, "\r\033[K")
	}
	text := strings.TrimRight(fmt.Sprintf(format, args...), "\n")
	for line := range strings.Lines(text) {
		fmt.Fprintf(p.out, "      %s\n", strings.TrimRight(line, "\n"))
	}
}
