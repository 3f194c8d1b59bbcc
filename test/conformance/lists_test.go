package conformance

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// three are the lists of which every spec is in exactly one.
var three = []string{passesFile, notApplicableFile, noImageFile}

func readLists(t *testing.T) map[string]list {
	t.Helper()
	all := map[string]list{}
	for _, file := range append(three, coreFile) {
		l, err := readList(file)
		if err != nil {
			t.Fatal(err)
		}
		all[file] = l
	}
	return all
}

func TestEverySpecIsInExactlyOneList(t *testing.T) {
	all := readLists(t)
	names, err := suite{programs: programs(t), dir: t.TempDir()}.names(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(names) < 150 {
		t.Fatalf("the suite has %d specs only", len(names))
	}
	if passing := len(all[passesFile]); passing < 120 {
		t.Errorf("%s has %d specs only, of %d", passesFile, passing, len(names))
	}
	known := map[string]bool{}
	for _, name := range names {
		known[name] = true
		var in []string
		for _, file := range three {
			if _, ok := all[file][name]; ok {
				in = append(in, file)
			}
		}
		if len(in) != 1 {
			t.Errorf("in %d lists %v: %s", len(in), in, name)
		}
	}
	for _, file := range three {
		for name, reason := range all[file] {
			if !known[name] {
				t.Errorf("%s names what the suite does not have: %s", file, name)
			}
			if reason == "" && file != passesFile {
				t.Errorf("%s gives no reason for %s", file, name)
			}
		}
	}
}

func TestTheCoreIsAPartOfWhatPasses(t *testing.T) {
	all := readLists(t)
	for name := range all[coreFile] {
		if _, ok := all[passesFile][name]; !ok {
			t.Errorf("%s does not name %s", passesFile, name)
		}
	}
}

func TestAListHasNamesWithReasons(t *testing.T) {
	path := filepath.Join(t.TempDir(), "list.txt")
	if err := os.WriteFile(path, []byte("# a comment\n\n[a] b # c # because # of\nd\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := readList(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(l) != 2 || l["[a] b"] != "c # because # of" || l["d"] != "" {
		t.Errorf("read %q", l)
	}
	if err := os.WriteFile(path, []byte("a # b\na\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := readList(path); err == nil {
		t.Error("a name that is there twice was accepted")
	}
}

func TestAReportIsWhatTheSpecsSaid(t *testing.T) {
	results, err := parseReport(strings.NewReader(`<testsuites><testsuite name="x">
		<testcase name="[It] one" time="1.5"></testcase>
		<testcase name="[It] two" time="2"><failure message="why">where</failure></testcase>
		<testcase name="[It] left out"><skipped message="skipped"></skipped></testcase>
		<testcase name="[SynchronizedBeforeSuite]"></testcase></testsuite></testsuites>`))
	if err != nil {
		t.Fatal(err)
	}
	want := []result{{"one", 1.5, ""}, {"two", 2, "why\nwhere"}}
	if len(results) != 2 || results[0] != want[0] || results[1] != want[1] {
		t.Fatalf("read %+v", results)
	}
	path := filepath.Join(t.TempDir(), "out", "report.xml")
	if err := writeReport(path, results); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{`tests="2" failures="1"`, `<testcase name="one"`, `<failure message="why">`} {
		if !strings.Contains(string(raw), part) {
			t.Errorf("%s is not in %s", part, raw)
		}
	}
}
