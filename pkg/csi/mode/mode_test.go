package mode

import (
	"errors"
	"strings"
	"testing"
)

// TestPrecedence is the table of docs/modes.md.
func TestPrecedence(t *testing.T) {
	const refused = Mode("refused")
	kata := Runtime{Class: "kata", Handler: "kata-qemu"}
	runc := Runtime{Class: "plain", Handler: "runc"}
	none := Runtime{Handler: "runc"}
	annotated := func(r Runtime, says Mode) Runtime { r.Says = says; return r }
	for name, c := range map[string]struct {
		claim, class Mode
		runtime      Runtime
		want         Mode
	}{
		"nothing said, machine":            {"", "", kata, Direct},
		"nothing said, ordinary pod":       {"", "", runc, refused},
		"nothing said, no class":           {"", "", none, refused},
		"class direct, machine":            {"", Direct, kata, Direct},
		"class direct, ordinary pod":       {"", Direct, runc, refused},
		"class auto, machine":              {"", Auto, kata, Direct},
		"class auto, ordinary pod":         {"", Auto, runc, Host},
		"class auto, no RuntimeClass":      {"", Auto, none, Host},
		"class host, machine":              {"", Host, kata, Host},
		"class host, ordinary pod":         {"", Host, runc, Host},
		"claim direct over class auto":     {Direct, Auto, runc, refused},
		"claim direct over class host":     {Direct, Host, kata, Direct},
		"claim auto over class direct":     {Auto, Direct, runc, Host},
		"claim auto over class host":       {Auto, Host, kata, Direct},
		"claim host over class direct":     {Host, Direct, kata, Host},
		"RuntimeClass direct over handler": {"", Direct, annotated(runc, Direct), Direct},
		"RuntimeClass host over handler":   {"", Auto, annotated(kata, Host), Host},
		"RuntimeClass host, class direct":  {"", Direct, annotated(kata, Host), refused},
		"RuntimeClass auto, its handler":   {"", Auto, annotated(kata, Auto), Direct},
		"RuntimeClass auto, runc":          {"", Direct, annotated(runc, Auto), refused},
		"RuntimeClass direct, claim host":  {Host, Auto, annotated(kata, Direct), Host},
	} {
		got, err := DefaultMachines.Decide(Wanted(c.claim, c.class), c.runtime)
		switch {
		case c.want == refused && !errors.Is(err, ErrNoMachine):
			t.Errorf("%s: got %q, %v, want a refusal", name, got, err)
		case c.want == refused:
			if c.runtime.Class != "" && !strings.Contains(err.Error(), c.runtime.Class) {
				t.Errorf("%s: the refusal does not name the RuntimeClass: %v", name, err)
			}
		case err != nil || got != c.want:
			t.Errorf("%s: got %q, %v, want %q", name, got, err, c.want)
		}
	}
}

func TestHandlersOfMachines(t *testing.T) {
	given, err := ParseMachines(" mine-*, other ,")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		machines Machines
		handler  string
		want     bool
	}{
		{DefaultMachines, "kata", true},
		{DefaultMachines, "kata-fc", true},
		{DefaultMachines, "katadirect", true},
		{DefaultMachines, "katana", false},
		{DefaultMachines, "runc", false},
		{DefaultMachines, "", false},
		{given, "mine-1", true},
		{given, "other", true},
		{given, "kata", false},
		{nil, "kata", false},
	} {
		if got := c.machines.Run(Runtime{Handler: c.handler}); got != c.want {
			t.Errorf("%v, handler %q: got %t", c.machines, c.handler, got)
		}
	}
	if _, err := ParseMachines("kata,[x"); err == nil {
		t.Error("a pattern that is none is accepted")
	}
}

func TestWordsThatAreNoMode(t *testing.T) {
	for _, word := range []string{"", "Direct", "hots", "direct "} {
		if m, err := Parse(word); !errors.Is(err, ErrUnknown) {
			t.Errorf("%q is read as %q", word, m)
		}
	}
	for _, m := range []Mode{Direct, Auto, Host} {
		if got, err := Parse(string(m)); got != m || err != nil {
			t.Errorf("%q: got %q, %v", m, got, err)
		}
	}
}
