package management

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/katadirect/katadirect/internal/calltimes"
)

// kind is a metric family's type in Prometheus' text format.
type kind string

const (
	gauge     kind = "gauge"
	counter   kind = "counter"
	histogram kind = "histogram"
	summary   kind = "summary"
	untyped   kind = "untyped"
)

// exposition is a text in Prometheus' format, written family by family.
type exposition struct{ bytes.Buffer }

// family begins a family; its samples follow.
func (e *exposition) family(name, help string, k kind) {
	if help != "" {
		e.WriteString("# HELP " + name + " " + escapeHelp.Replace(help) + "\n")
	}
	e.WriteString("# TYPE " + name + " " + string(k) + "\n")
}

var (
	escapeHelp  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	escapeLabel = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

// sample writes one; labels are names and values in turn.
func (e *exposition) sample(name string, value float64, labels ...string) {
	e.WriteString(name)
	for i := 0; i < len(labels); i += 2 {
		e.WriteByte("{,"[min(i, 1)])
		e.WriteString(labels[i] + `="` + escapeLabel.Replace(labels[i+1]) + `"`)
	}
	if len(labels) > 0 {
		e.WriteByte('}')
	}
	e.WriteString(" " + strconv.FormatFloat(value, 'g', -1, 64) + "\n")
}

// single writes a family of one sample.
func (e *exposition) single(name, help string, k kind, value float64) {
	e.family(name, help, k)
	e.sample(name, value)
}

// calls writes a histogram with a label for the kind of call.
func (e *exposition) calls(name, help string, calls []calltimes.Of) {
	if len(calls) == 0 {
		return
	}
	e.family(name, help, histogram)
	for _, c := range calls {
		for i, most := range calltimes.BucketsMilliseconds {
			e.sample(name+"_bucket", float64(c.Buckets[i]), "action", c.Action, "le", strconv.FormatFloat(most, 'g', -1, 64))
		}
		e.sample(name+"_bucket", float64(c.Count), "action", c.Action, "le", "+Inf")
		e.sample(name+"_sum", c.SumMilliseconds, "action", c.Action)
		e.sample(name+"_count", float64(c.Count), "action", c.Action)
	}
}
