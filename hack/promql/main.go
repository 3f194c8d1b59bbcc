// Command promql takes PromQL expressions apart: it reads a JSON list of them on standard input, and writes for each the
// metrics that it selects, with the labels that it names: in selectors, in aggregations and in joins. The test of
// deploy/monitoring asks it, to hold rules and dashboards to what is really exposed.
//
// It is in a module of its own, because Prometheus' parser comes with much that nothing else here needs.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// expression is one, taken apart.
type expression struct {
	Error    string     `json:"error,omitempty"`
	Selected []selected `json:"selected,omitempty"`
	// Labels are those that aggregations and joins name.
	Labels []string `json:"labels,omitempty"`
}

// selected is one selector: a metric, and the values that its labels are to have.
type selected struct {
	Metric   string    `json:"metric"`
	Matchers []matcher `json:"matchers,omitempty"`
}

type matcher struct {
	Label string `json:"label"`
	Type  string `json:"type"`
	Value string `json:"value"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	var texts []string
	if err := json.NewDecoder(os.Stdin).Decode(&texts); err != nil {
		return err
	}
	all := make([]expression, len(texts))
	for i, text := range texts {
		all[i] = takeApart(text)
	}
	return json.NewEncoder(os.Stdout).Encode(all)
}

func takeApart(text string) (e expression) {
	parsed, err := parser.NewParser(parser.Options{}).ParseExpr(text)
	if err != nil {
		e.Error = err.Error()
		return e
	}
	parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
		switch n := node.(type) {
		case *parser.VectorSelector:
			e.Selected = append(e.Selected, selection(n))
		case *parser.AggregateExpr:
			e.Labels = append(e.Labels, n.Grouping...)
		case *parser.BinaryExpr:
			if n.VectorMatching != nil {
				e.Labels = append(append(e.Labels, n.VectorMatching.MatchingLabels...), n.VectorMatching.Include...)
			}
		}
		return nil
	})
	slices.Sort(e.Labels)
	e.Labels = slices.Compact(e.Labels)
	return e
}

func selection(n *parser.VectorSelector) selected {
	s := selected{Metric: n.Name}
	for _, m := range n.LabelMatchers {
		if m.Name == labels.MetricName {
			s.Metric = m.Value
			continue
		}
		s.Matchers = append(s.Matchers, matcher{m.Name, m.Type.String(), m.Value})
	}
	return s
}
