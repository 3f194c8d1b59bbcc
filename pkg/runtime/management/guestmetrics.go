package management

import (
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Bounds on what a guest may have in the host's metrics.
const (
	maxGuestFamilies = 256
	maxGuestSamples  = 8192
	maxGuestLabels   = 8
	maxGuestText     = 256 // of a name, a label's value or a help
)

var (
	metricName = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)
	labelName  = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_]*$`)
)

// guestFamily is one family as the guest has it.
type guestFamily struct {
	name, help string
	kind       kind
	samples    []guestSample
	seen       map[string]bool // labels, as they will be written
}

type guestSample struct {
	value  float64
	labels []string
}

// guest writes what is good in the text that a guest has sent. Every sample is taken apart and written anew, under a
// name that begins with kata_guest_ or kata_agent_: whatever the guest sends, it can neither make the text unreadable
// nor speak for the shim or another pod. As in Kata, names of the agent's own libraries get kata_agent_ before them.
func (e *exposition) guest(text string) {
	families := make(map[string]*guestFamily)
	var order []string
	family := func(name string) *guestFamily {
		name, ok := guestName(name)
		if !ok {
			return nil
		}
		if f := families[name]; f != nil {
			return f
		}
		if len(families) == maxGuestFamilies {
			return nil
		}
		f := &guestFamily{name: name, kind: untyped, seen: make(map[string]bool)}
		families[name] = f
		order = append(order, name)
		return f
	}
	samples := 0
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimSpace(line)
		if comment, ok := strings.CutPrefix(line, "# "); ok {
			word, rest, _ := strings.Cut(comment, " ")
			name, what, _ := strings.Cut(rest, " ")
			if word != "HELP" && word != "TYPE" {
				continue
			}
			if f := family(name); f != nil {
				f.describe(word, what)
			}
			continue
		}
		name, sample, ok := parseSample(line)
		if !ok || samples == maxGuestSamples {
			continue
		}
		if f := family(name); f != nil && f.add(sample) {
			samples++
		}
	}
	slices.Sort(order)
	for _, name := range order {
		f := families[name]
		if len(f.samples) == 0 {
			continue
		}
		e.family(f.name, f.help, f.kind)
		for _, s := range f.samples {
			e.sample(f.name, s.value, s.labels...)
		}
	}
}

// guestName is the name that a guest's family gets.
func guestName(name string) (string, bool) {
	if len(name) > maxGuestText || !metricName.MatchString(name) {
		return "", false
	}
	switch {
	case strings.HasPrefix(name, "kata_guest_"), strings.HasPrefix(name, "kata_agent_"):
		return name, true
	case strings.HasPrefix(name, "kata"): // the host's own
		return "", false
	}
	return "kata_agent_" + name, true
}

// describe takes a HELP or TYPE. Of the types only those are kept that stand for one name: a histogram's parts are
// written as they are.
func (f *guestFamily) describe(word, what string) {
	switch {
	case word == "HELP" && f.help == "" && len(what) <= maxGuestText && utf8.ValidString(what):
		f.help = strings.Map(printableOnly, what)
	case word == "TYPE" && (what == string(gauge) || what == string(counter)):
		f.kind = kind(what)
	}
}

func printableOnly(r rune) rune {
	if r < ' ' || r == 0x7f {
		return -1
	}
	return r
}

// add takes a sample, unless there is one with the same labels.
func (f *guestFamily) add(s guestSample) bool {
	key := strings.Join(s.labels, "\xff") // in no label: they are UTF-8
	if f.seen[key] {
		return false
	}
	f.seen[key] = true
	f.samples = append(f.samples, s)
	return true
}

// parseSample reads a line "name{label="value",…} 1.5", with or without a time, which is dropped.
func parseSample(line string) (name string, s guestSample, ok bool) {
	end := strings.IndexAny(line, "{ \t")
	if end <= 0 {
		return "", s, false
	}
	name, rest := line[:end], line[end:]
	if rest[0] == '{' {
		if s.labels, rest, ok = parseLabels(rest[1:]); !ok {
			return "", s, false
		}
	}
	fields := strings.Fields(rest)
	if len(fields) < 1 || len(fields) > 2 {
		return "", s, false
	}
	value, err := strconv.ParseFloat(fields[0], 64)
	if err != nil || math.IsInf(value, 0) {
		return "", s, false
	}
	s.value = value
	return name, s, true
}

// parseLabels reads labels up to and with the closing brace.
func parseLabels(text string) (labels []string, rest string, ok bool) {
	var names []string
	for {
		text = strings.TrimLeft(text, " \t,")
		if after, ends := strings.CutPrefix(text, "}"); ends {
			return labels, after, true
		}
		name, value, found := strings.Cut(text, `="`)
		if !found || !labelName.MatchString(name) || len(name) > maxGuestText || slices.Contains(names, name) || len(names) == maxGuestLabels {
			return nil, "", false
		}
		unquoted, after, ok := unquote(value)
		if !ok {
			return nil, "", false
		}
		names, labels, text = append(names, name), append(labels, name, unquoted), after
	}
}

// unquote reads up to and with the closing quote.
func unquote(text string) (value, rest string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(text) && b.Len() <= maxGuestText; i++ {
		switch c := text[i]; {
		case c == '"':
			return b.String(), text[i+1:], utf8.ValidString(b.String())
		case c == '\\' && i+1 < len(text):
			i++
			if c = text[i]; c == 'n' {
				c = '\n'
			}
			b.WriteByte(c)
		default:
			b.WriteByte(c)
		}
	}
	return "", "", false
}
