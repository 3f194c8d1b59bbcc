package conformance

import (
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// result is how one spec ended.
type result struct {
	Name    string
	Seconds float64
	// Failure is "" for a spec that passed.
	Failure string
}

// testSuites is the part of a JUnit report that is of use here.
type testSuites struct {
	XMLName xml.Name    `xml:"testsuites"`
	Suites  []testSuite `xml:"testsuite"`
}

type testSuite struct {
	Name     string     `xml:"name,attr"`
	Tests    int        `xml:"tests,attr"`
	Failures int        `xml:"failures,attr"`
	Cases    []testCase `xml:"testcase"`
}

type testCase struct {
	Name    string   `xml:"name,attr"`
	Class   string   `xml:"classname,attr"`
	Time    string   `xml:"time,attr"`
	Skipped *message `xml:"skipped"`
	Failure *message `xml:"failure"`
	Error   *message `xml:"error"`
}

type message struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

// parseReport reads how the specs ended that were not left out.
func parseReport(r io.Reader) ([]result, error) {
	var all testSuites
	if err := xml.NewDecoder(r).Decode(&all); err != nil {
		return nil, fmt.Errorf("read the suite's report: %w", err)
	}
	var results []result
	for _, suite := range all.Suites {
		for _, c := range suite.Cases {
			name, isSpec := strings.CutPrefix(c.Name, "[It] ")
			if c.Skipped != nil || !isSpec {
				continue
			}
			r := result{Name: name}
			r.Seconds, _ = strconv.ParseFloat(c.Time, 64)
			for _, m := range []*message{c.Failure, c.Error} {
				if m != nil {
					r.Failure = strings.TrimSpace(m.Message + "\n" + m.Text)
				}
			}
			results = append(results, r)
		}
	}
	return results, nil
}

// writeReport writes the results as JUnit, without the thousands of specs that were left out.
func writeReport(path string, results []result) error {
	suite := testSuite{Name: "NodeConformance", Tests: len(results)}
	for _, r := range results {
		c := testCase{Name: r.Name, Class: suite.Name, Time: strconv.FormatFloat(r.Seconds, 'f', 3, 64)}
		if r.Failure != "" {
			suite.Failures++
			first, _, _ := strings.Cut(r.Failure, "\n")
			c.Failure = &message{Message: first, Text: r.Failure}
		}
		suite.Cases = append(suite.Cases, c)
	}
	raw, err := xml.MarshalIndent(testSuites{Suites: []testSuite{suite}}, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append([]byte(xml.Header), raw...), 0o644)
}
