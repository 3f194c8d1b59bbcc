package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/katadirect/katadirect/internal/claims"
)

// Formats of output.
const (
	asTable = "table"
	asWide  = "wide"
	asJSON  = "json"
	asYAML  = "yaml"
)

// output is the flag -o.
type output struct {
	format string
	known  []string
}

func outputFlag(cmd *cobra.Command, known ...string) *output {
	o := &output{known: known}
	cmd.Flags().StringVarP(&o.format, "output", "o", known[0], "Output format: "+strings.Join(known, ", "))
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(known, cobra.ShellCompDirectiveNoFileComp))
	return o
}

func (o *output) check() error {
	if !slices.Contains(o.known, o.format) {
		return usageError{fmt.Errorf("--output %q is not one of %s", o.format, strings.Join(o.known, ", "))}
	}
	return nil
}

// document writes everything for programs, and reports whether that was asked for.
func (o *output) document(out io.Writer, view *claims.View) (bool, error) {
	switch o.format {
	case asJSON:
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return true, encoder.Encode(view)
	case asYAML:
		raw, err := yaml.Marshal(view)
		if err == nil {
			_, err = out.Write(raw)
		}
		return true, err
	}
	return false, nil
}

// notes says what could not be found out.
func notes(cmd *cobra.Command, view *claims.View) {
	for _, note := range view.Notes {
		fmt.Fprintf(cmd.ErrOrStderr(), "note: %s\n", printable(note))
	}
}

// progress tells a person what is being waited for.
func progress(cmd *cobra.Command) func(string) {
	return func(text string) { fmt.Fprintln(cmd.ErrOrStderr(), text) }
}
