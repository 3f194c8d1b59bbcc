package e2e

import (
	"encoding/xml"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/onsi/ginkgo/v2/reporters"
)

// What continuous integration reads of the suite is what has happened in it.
func TestTheReportTellsOfEachScenario(t *testing.T) {
	var log strings.Builder
	j := newJournal(&log)
	good := j.begin("walk", "a claim & its pod")
	good.step("a claim <waits>")
	good.end(false)
	bad := j.begin("full", "the disk is full")
	bad.step("somebody fills it")
	bad.failure = "pod/data  Pending"
	bad.end(true)

	file := filepath.Join(t.TempDir(), "out", "e2e.xml")
	if err := j.write(file); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var report reporters.JUnitTestSuites
	if err := xml.Unmarshal(raw, &report); err != nil {
		t.Fatal(err)
	}
	if report.Tests != 2 || report.Failures != 1 || len(report.TestSuites) != 1 || len(report.TestSuites[0].TestCases) != 2 {
		t.Fatalf("the report has %d tests, %d failures:\n%s", report.Tests, report.Failures, raw)
	}
	passed, failed := report.TestSuites[0].TestCases[0], report.TestSuites[0].TestCases[1]
	if passed.Classname != "e2e.walk" || passed.Name != "a claim & its pod" || passed.Status != "passed" || passed.Failure != nil ||
		!strings.Contains(passed.SystemOut, "a claim <waits>") {
		t.Errorf("of what has passed it says %+v", passed)
	}
	if f := failed.Failure; failed.Status != "failed" || f == nil || f.Message != "failed in the step: somebody fills it" || f.Description != "pod/data  Pending" {
		t.Errorf("of what has failed it says %+v, %+v", failed, f)
	}
	for _, line := range []string{"a claim <waits>", "A claim & its pod: passed", "somebody fills it … FAILED", "The disk is full: FAILED"} {
		if !strings.Contains(log.String(), line) {
			t.Errorf("the log has no %q:\n%s", line, log.String())
		}
	}
}

func TestNoReportIsWrittenNowhere(t *testing.T) {
	if err := newJournal(io.Discard).write(""); err != nil {
		t.Error(err)
	}
}
