package nodeinstall

import (
	"context"
	"fmt"
	"strings"

	"github.com/pmezard/go-difflib/difflib"
)

// Change is one thing that is done to the node, or would be.
type Change struct {
	Action string `json:"action"`         // create, replace, remove, link, label, restart …
	Path   string `json:"path,omitempty"` // on the host
	Detail string `json:"detail,omitempty"`
	Diff   string `json:"diff,omitempty"` // of configurations, in the unified form

	do func(context.Context) error
}

// Report says what was done, or would be.
type Report struct {
	Operation string   `json:"operation"`
	DryRun    bool     `json:"dryRun"`
	Runtime   string   `json:"runtime"` // "containerd v2.2.9"
	Handler   string   `json:"handler"`
	Version   string   `json:"version,omitempty"` // the folder of the version
	Changes   []Change `json:"changes"`
	Warnings  []string `json:"warnings,omitempty"`
	// Left are versions that stay because pods use them.
	Left []Version `json:"left,omitempty"`
	// Error is why it did not end well.
	Error string `json:"error,omitempty"`
}

func (r *Report) warn(format string, args ...any) {
	r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...))
}

// perform makes changes, in order, and notes each in the report. In a dry run it only notes them.
func (n *node) perform(ctx context.Context, r *Report, changes ...Change) error {
	for _, c := range changes {
		if !n.DryRun {
			if err := c.do(ctx); err != nil {
				return fmt.Errorf("%s %s: %w", c.Action, c.Path, err)
			}
			n.Log.Info(c.Action, "path", c.Path, "detail", c.Detail)
		}
		r.Changes = append(r.Changes, c)
	}
	return nil
}

// diff shows a change of a text; "" is no file.
func diff(path, before, after string) string {
	from, to := path, path
	if before == "" {
		from = "/dev/null"
	}
	if after == "" {
		to = "/dev/null"
	}
	text, err := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
		A: lines(before), B: lines(after), FromFile: from, ToFile: to, Context: 3,
	})
	if err != nil {
		return err.Error() // writing into memory does not fail
	}
	return text
}

// lines splits a text for a diff, which wants a line end everywhere.
func lines(text string) []string {
	if text == "" {
		return nil
	}
	const noEnd = "\n\\ No newline at end of file\n"
	out := strings.SplitAfter(text, "\n")
	if last := len(out) - 1; out[last] == "" {
		out = out[:last]
	} else {
		out[last] += noEnd
	}
	return out
}
