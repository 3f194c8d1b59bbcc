package e2e

import (
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/onsi/ginkgo/v2/reporters"
)

// journal is the log, a line for each step with its time, and what the report is made of.
type journal struct {
	began time.Time

	mu    sync.Mutex // guards what follows, and keeps lines whole
	to    io.Writer
	cases []reporters.JUnitTestCase
}

func newJournal(to io.Writer) *journal { return &journal{began: time.Now(), to: to} }

// story is what has happened in one scenario. It belongs to one goroutine.
type story struct {
	journal     *journal
	name, about string
	began       time.Time
	doing       string // the step under way
	since       time.Time
	log         strings.Builder
	failure     string
}

func (j *journal) begin(name, about string) *story {
	now := time.Now()
	return &story{journal: j, name: name, about: about, began: now, since: now}
}

// step ends the step under way and begins the next.
func (s *story) step(doing string) {
	s.endStep("")
	s.doing, s.since = doing, time.Now()
}

// done says what has been done since the last step.
func (s *story) done(what string) {
	s.say(time.Since(s.since), what)
	s.since = time.Now()
}

func (s *story) endStep(how string) {
	if s.doing != "" {
		s.say(time.Since(s.since), s.doing+how)
	}
	s.doing = ""
}

func (s *story) say(took time.Duration, what string) {
	fmt.Fprintf(&s.log, "%6.2f s  %s\n", took.Seconds(), what)
	s.journal.mu.Lock()
	defer s.journal.mu.Unlock()
	fmt.Fprintf(s.journal.to, "%7.1f s  %-15s %6.2f s  %s\n", time.Since(s.journal.began).Seconds(), s.name, took.Seconds(), what)
}

// end closes the story.
func (s *story) end(failed bool) {
	doing, verdict := s.doing, "passed"
	s.endStep(map[bool]string{true: " … FAILED"}[failed])
	one := reporters.JUnitTestCase{
		Name: s.about, Classname: "e2e." + s.name, Status: verdict, Time: time.Since(s.began).Seconds(), SystemOut: s.log.String(),
	}
	if failed {
		one.Status, verdict = "failed", "FAILED"
		one.Failure = &reporters.JUnitFailure{Message: "failed in the step: " + doing, Type: "failed", Description: s.failure}
	}
	s.say(time.Since(s.began), strings.ToUpper(s.about[:1])+s.about[1:]+": "+verdict)
	s.journal.mu.Lock()
	defer s.journal.mu.Unlock()
	s.journal.cases = append(s.journal.cases, one)
}

// write writes the report; no path, no report.
func (j *journal) write(path string) error {
	if path == "" {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	all := reporters.JUnitTestSuite{
		Name: "e2e", Package: "test/e2e", Tests: len(j.cases), TestCases: j.cases,
		Time: time.Since(j.began).Seconds(), Timestamp: j.began.Format("2006-01-02T15:04:05"),
	}
	for _, one := range j.cases {
		if one.Failure != nil {
			all.Failures++
		}
	}
	report := reporters.JUnitTestSuites{Tests: all.Tests, Failures: all.Failures, Time: all.Time, TestSuites: []reporters.JUnitTestSuite{all}}
	raw, err := xml.MarshalIndent(report, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append([]byte(xml.Header), append(raw, '\n')...), 0o644)
}
